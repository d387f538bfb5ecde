//! The tables that perftest prints.

use anyhow::{Context, Result, bail, ensure};

/// The figures of one run, a row a size.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The rows, in the order printed.
    pub rows: Vec<Row>,
}

/// One line of figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Bytes a message.
    pub size: u64,
    /// What was measured.
    pub figures: Figures,
}

/// What a program measures, by its kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Figures {
    /// The `_bw` programs.
    Bandwidth {
        /// The average, in bytes a second.
        bytes_per_second: f64,
        /// The average, in messages a second.
        messages_per_second: f64,
    },
    /// The `_lat` programs, in microseconds.
    Latency {
        /// The median.
        typical: f64,
        /// The mean.
        average: f64,
    },
}

impl Table {
    /// Reads the table out of a client's standard output.
    pub fn parse(stdout: &str) -> Result<Table> {
        let mut lines = stdout.lines().skip_while(|line| !line.trim_start().starts_with("#bytes"));
        let header = lines.next().context("there is no table in the output")?;
        let kind = Kind::of(header)?;
        let mut rows = Vec::new();
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.first().is_some_and(|word| word.starts_with("---")) {
                break;
            }
            // Warnings of the program may stand between two rows.
            if words.first().is_some_and(|word| word.parse::<u64>().is_ok()) {
                rows.push(kind.row(&words).with_context(|| format!("this is no row: {line}"))?);
            }
        }
        Ok(Table { rows })
    }

    /// Fails unless the rows are of just these sizes, and every figure is more than nothing.
    pub fn covers(&self, sizes: &[u64]) -> Result<()> {
        let found: Vec<u64> = self.rows.iter().map(|row| row.size).collect();
        ensure!(found == sizes, "the table has the sizes {found:?} instead of {sizes:?}");
        match self.rows.iter().find(|row| !row.has_figure()) {
            Some(row) => bail!("there is no figure in {row:?}"),
            None => Ok(()),
        }
    }

    /// Whether every row has a figure that is more than nothing.
    pub fn has_figures(&self) -> bool {
        self.rows.iter().all(Row::has_figure)
    }
}

impl Row {
    fn has_figure(&self) -> bool {
        let figure = match self.figures {
            // Both are printed with few decimals: of large messages the rate may read as zero, of few small ones a
            // second the bandwidth.
            Figures::Bandwidth { messages_per_second, .. }
                if (1.0..1e4).contains(&(messages_per_second * self.size as f64)) =>
            {
                messages_per_second
            }
            Figures::Bandwidth { bytes_per_second, .. } => bytes_per_second,
            Figures::Latency { average, .. } => average,
        };
        figure.is_finite() && figure > 0.0
    }
}

/// The sizes of `-a`.
pub fn all_sizes() -> Vec<u64> {
    (1..=23).map(|power| 1 << power).collect()
}

#[derive(Clone, Copy)]
enum Kind {
    /// `bytes` in a unit of the bandwidth columns, from `BW average[MiB/sec]`.
    Bandwidth {
        unit: f64,
    },
    Latency,
}

impl Kind {
    fn of(header: &str) -> Result<Kind> {
        if header.contains("t_typical") {
            return Ok(Kind::Latency);
        }
        let (_, unit) = header.split_once("BW average[").with_context(|| format!("unknown columns: {header}"))?;
        let unit = match unit.split_once(']').map(|(unit, _)| unit) {
            // perftest means 2^20 bytes by either name (`--report_gbits` of its help says so).
            Some("MB/sec" | "MiB/sec") => 1_048_576.0,
            Some("Gb/sec") => 1e9 / 8.0,
            other => bail!("unknown unit of bandwidth: {other:?}"),
        };
        Ok(Kind::Bandwidth { unit })
    }

    fn row(self, words: &[&str]) -> Result<Row> {
        let number = |at: usize| -> Result<f64> { Ok(words.get(at).context("too few columns")?.parse()?) };
        let figures = match self {
            Kind::Bandwidth { unit } => {
                Figures::Bandwidth { bytes_per_second: number(3)? * unit, messages_per_second: number(4)? * 1e6 }
            }
            Kind::Latency => Figures::Latency { typical: number(4)?, average: number(5)? },
        };
        Ok(Row { size: words.first().context("too few columns")?.parse()?, figures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BANDWIDTH: &str = "\
 local address: LID 0000 QPN 0x48534f PSN 0x5c2a7e RKey 0x9d3c51 VAddr 0x007f25d2a00000
---------------------------------------------------------------------------------------
 #bytes     #iterations    BW peak[MB/sec]    BW average[MB/sec]   MsgRate[Mpps]
 65536      100              4768.37            2384.19\t\t   0.038147
Conflicting CPU frequency values detected: 2600.000000 != 3000.000000. CPU Frequency is not max.
 131072     100              5000.00            4000.00\t\t   0.032000
---------------------------------------------------------------------------------------
";

    const LATENCY: &str = "\
---------------------------------------------------------------------------------------
 #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   99% percentile[usec]   99.9% percentile[usec] 
 2       1000          4.91           53.62        5.48     \t       5.57        \t0.95   \t\t7.16    \t\t53.62  
---------------------------------------------------------------------------------------
";

    #[test]
    fn reads_bandwidths_past_a_warning() {
        let table = Table::parse(BANDWIDTH).unwrap();

        let sizes: Vec<u64> = table.rows.iter().map(|row| row.size).collect();
        assert_eq!(sizes, [65536, 131_072]);
        let Figures::Bandwidth { bytes_per_second, messages_per_second } = table.rows[0].figures else { panic!() };
        assert!((bytes_per_second - 2.5e9).abs() < 1e6, "{bytes_per_second}");
        assert!((messages_per_second - 38147.0).abs() < 0.5, "{messages_per_second}");
        assert!(table.covers(&[65536, 131_072]).is_ok());
    }

    #[test]
    fn reads_latencies() {
        let table = Table::parse(LATENCY).unwrap();

        assert_eq!(table.rows.len(), 1);
        assert_eq!(table.rows[0], Row { size: 2, figures: Figures::Latency { typical: 5.48, average: 5.57 } });
    }

    #[test]
    fn a_missing_row_or_an_empty_figure_is_noticed() {
        let table = Table::parse(BANDWIDTH).unwrap();
        assert!(table.covers(&[65536]).is_err());

        let nothing = Table::parse(&BANDWIDTH.replace("2384.19", "0.00")).unwrap();
        assert!(nothing.covers(&[65536, 131_072]).is_err());
    }

    #[test]
    fn an_output_without_a_table_is_an_error() {
        assert!(Table::parse("Couldn't connect to 10.77.0.1:18515\n").is_err());
    }
}
