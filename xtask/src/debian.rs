//! Unpacks packages of the Debian release after the oldest one that we support, below `target`; nothing is installed.
//!
//! apt finds the mirror in the machine's own configuration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{alone_in, output, root};

/// The packages' release.
pub const SUITE: &str = "trixie";

/// Packages to unpack together.
pub struct Tree<'a> {
    /// The folder's name below `target`. Another choice of packages needs another name.
    pub name: &'a str,
    /// What apt takes: `name` or `name=version`, where the version may end in `*`.
    pub packages: &'a [&'a str],
    /// Whether what the packages depend on is unpacked too, the C library included.
    pub dependencies: bool,
}

impl Tree<'_> {
    /// The folder with the unpacked packages, from the mirror unless it is there from an earlier call.
    pub fn unpack(&self) -> Result<PathBuf> {
        let target = root()?.join("target");
        let _alone = alone_in(&target)?;
        let folder = target.join(self.name);
        let unpacked = folder.join(SUITE);
        if !unpacked.is_dir() {
            println!("Fetching {} of Debian {SUITE}, once …", self.packages.join(", "));
            // A folder under its final name is complete: it is filled under another one.
            let partial = folder.join("partial");
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::create_dir_all(&partial)?;
            let apt = Apt::new(&folder.join("apt"))?;
            for package in apt.download(self.packages, self.dependencies)? {
                output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&partial))?;
            }
            fs::rename(&partial, &unpacked)?;
        }
        Ok(unpacked)
    }
}

/// The words that start a program of an unpacked tree with the libraries of that tree.
pub fn loader(unpacked: &Path) -> [PathBuf; 3] {
    let libraries = unpacked.join("usr/lib/x86_64-linux-gnu");
    [libraries.join("ld-linux-x86-64.so.2"), "--library-path".into(), libraries]
}

/// An apt that keeps its sources, lists and packages in a folder of its own.
struct Apt {
    folder: PathBuf,
}

impl Apt {
    fn new(folder: &Path) -> Result<Apt> {
        for name in ["lists/partial", "packages/partial"] {
            fs::create_dir_all(folder.join(name))?;
        }
        fs::write(folder.join("installed"), "")?;
        fs::write(folder.join("sources.list"), source(SUITE)? + "\n")?;
        Ok(Apt { folder: folder.to_owned() })
    }

    fn download(&self, packages: &[&str], dependencies: bool) -> Result<Vec<PathBuf>> {
        output(self.get(&["update"]).args(["--error-on=any"]))?;
        let words: &[&str] = if dependencies {
            &["install", "--yes", "--no-install-recommends", "--download-only"]
        } else {
            &["download"]
        };
        output(self.get(words).args(packages))?;
        let files = fs::read_dir(self.folder.join("packages"))?.map(|file| Ok(file?.path()));
        let files: Vec<PathBuf> = files.collect::<Result<_>>()?;
        Ok(files.into_iter().filter(|file| file.extension().is_some_and(|ending| ending == "deb")).collect())
    }

    fn get(&self, words: &[&str]) -> Command {
        let mut command = Command::new("apt-get");
        let own = |name: &str| self.folder.join(name).display().to_string();
        for (option, value) in [
            ("Dir::Etc::sourcelist", own("sources.list")),
            ("Dir::Etc::sourceparts", "/dev/null".to_owned()),
            ("Dir::State::lists", own("lists")),
            ("Dir::Cache", self.folder.display().to_string()),
            ("Dir::Cache::archives", own("packages")),
            // Nothing counts as installed, so that all dependencies are fetched.
            ("Dir::State::status", own("installed")),
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

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The line of sources.list for a suite, on the machine's own mirror.
pub fn source(suite: &str) -> Result<String> {
    let listed = output(Command::new("apt-get").args(["update", "--print-uris"]))?;
    let mirror = mirror(&listed, &codename(&fs::read_to_string("/etc/os-release")?)?)
        .context("apt's sources name no mirror of this machine's own Debian release")?;
    Ok(format!("deb [signed-by={KEYRING}] {mirror} {suite} main"))
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
