//! Fetches rdma-core's headers and library from the Debian release after the oldest one that we support.
//!
//! Debian 12 has rdma-core 44; its own headers would lack what later programs are compiled with. rdma-core only
//! ever appends to its structures, so one set of bindings, made from the later headers, serves both. The packages
//! are unpacked under `target` and never installed. apt finds the mirror in the machine's own configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::output;

/// The Debian release, and the rdma-core version in it that the checked-in files are made from.
const SUITE: &str = "trixie";
const VERSION: &str = "56.";
const PACKAGES: [&str; 2] = ["libibverbs-dev", "libibverbs1"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An unpacked rdma-core.
pub struct Release {
    /// What to give to a C compiler's `-I`.
    pub headers: PathBuf,
    /// `libibverbs.so.1`.
    pub library: PathBuf,
}

/// Unpacks rdma-core below `folder`, unless it is there from an earlier call.
pub fn fetch(folder: &Path) -> Result<Release> {
    let unpacked = folder.join(format!("{SUITE}-{}", VERSION.trim_end_matches('.')));
    if !unpacked.is_dir() {
        // A folder under its final name is complete: it is filled under another one.
        let partial = folder.join("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(&partial)?;
        for package in Apt::new(&folder.join("apt"))?.download()? {
            output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&partial))?;
        }
        fs::rename(&partial, &unpacked)?;
    }
    Ok(Release { headers: unpacked.join("usr/include"), library: library(&unpacked)? })
}

/// The library lies in a folder named for the architecture.
fn library(unpacked: &Path) -> Result<PathBuf> {
    for folder in fs::read_dir(unpacked.join("usr/lib"))? {
        let library = folder?.path().join("libibverbs.so.1");
        if library.exists() {
            return Ok(library);
        }
    }
    bail!("no libibverbs.so.1 in {}", unpacked.display())
}

/// An apt that keeps its sources, lists and packages in a folder of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path) -> Result<Apt> {
        for name in ["lists/partial", "archives/partial", "packages"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let listed = output(Command::new("apt-get").args(["update", "--print-uris"]))?;
        let mirror = mirror(&listed, &codename(&fs::read_to_string("/etc/os-release")?)?)
            .context("apt's sources name no mirror of this machine's own Debian release")?;
        let source = format!("deb [signed-by={KEYRING}] {mirror} {SUITE} main\n");
        fs::write(folder.join("sources.list"), source)?;
        Ok(Apt { folder: folder.to_owned() })
    }

    fn download(&self) -> Result<Vec<PathBuf>> {
        output(self.get(&["update"]).args(["--error-on=any"]))?;
        output(self.get(&["download"]).args(PACKAGES))?;
        PACKAGES.iter().map(|package| self.package(package)).collect()
    }

    fn package(&self, name: &str) -> Result<PathBuf> {
        let prefix = format!("{name}_");
        for file in fs::read_dir(self.folder.join("packages"))? {
            let file = file?;
            let shown = file.file_name().to_string_lossy().into_owned();
            if let Some(version) = shown.strip_prefix(&prefix) {
                ensure!(version.starts_with(VERSION), "{SUITE} has {shown}, not rdma-core {VERSION}x");
                return Ok(file.path());
            }
        }
        bail!("apt-get download left no {name} in {}", self.folder.display())
    }

    fn get(&self, words: &[&str]) -> Command {
        let mut command = Command::new("apt-get");
        let own = |name: &str| self.folder.join(name).display().to_string();
        for (option, value) in [
            ("Dir::Etc::sourcelist", own("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::State::lists", own("lists")),
            ("Dir::Cache", self.folder.display().to_string()),
            ("Dir::Cache::archives", own("archives")),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".to_owned()),
            // apt's own user may not be able to write below the source tree.
            ("APT::Sandbox::User", "root".to_owned()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command.args(["-q"]).args(words).current_dir(self.folder.join("packages"));
        command
    }
}

/// The word by which Debian's archive knows the installed release.
fn codename(os_release: &str) -> Result<String> {
    let named = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(named.context("/etc/os-release has no VERSION_CODENAME")?.trim_matches('"').to_owned())
}

/// The archive that holds `codename`, from what `apt-get update --print-uris` shows.
fn mirror(listed: &str, codename: &str) -> Option<String> {
    let suffix = format!("/dists/{codename}/InRelease");
    let first_words = listed.lines().filter_map(|line| line.split_whitespace().next());
    let archives: Vec<_> = first_words.filter_map(|uri| uri.trim_matches('\'').strip_suffix(&suffix)).collect();
    // Another archive may name its releases alike.
    let debian = archives.iter().find(|archive| archive.trim_end_matches('/').ends_with("/debian"));
    debian.or(archives.first()).map(|archive| (*archive).to_owned())
}

#[cfg(test)]
mod tests {
    use super::{codename, mirror};

    const LISTED: &str = "\
'https://tools.example/bookworm/dists/bookworm/InRelease' a 0 
'http://mirror.example/debian/dists/bookworm/InRelease' b 0 
'http://mirror.example/debian/dists/bookworm-updates/InRelease' c 0 
'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' d 0 
";

    #[test]
    fn the_mirror_is_the_archive_of_the_installed_release() {
        assert_eq!(mirror(LISTED, "bookworm").as_deref(), Some("http://mirror.example/debian"));
    }

    #[test]
    fn a_machine_of_another_release_has_no_mirror_here() {
        assert_eq!(mirror(LISTED, "noble"), None);
    }

    #[test]
    fn the_codename_may_be_quoted() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=\"bookworm\"\n").unwrap(), "bookworm");
    }
}
