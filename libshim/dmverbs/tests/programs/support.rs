//! An installation of dmverbs in a temporary folder, with a stand-in for the drop-in library.
//!
//! What is tested here is how programs reach a library, whatever it does; so a few lines of C take its place.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A folder `bin` with the command and its libraries, and everything that running it leaves behind.
pub struct Installation {
    folder: TempDir,
}

impl Installation {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        // Programs that change their user work in here too.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        let this = Self { folder };
        fs::copy(env!("CARGO_BIN_EXE_dmverbs"), this.dmverbs()).unwrap();
        fs::copy(preload(), bin.join("libdmverbs_preload.so")).unwrap();
        this.compile_library("standin.c", &this.verbs(), &[]);
        this
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn dmverbs(&self) -> PathBuf {
        self.path().join("bin/dmverbs")
    }

    /// The stand-in for the drop-in library.
    pub fn verbs(&self) -> PathBuf {
        self.path().join("bin/libdmverbs_verbs.so")
    }

    /// `program args…`, in an environment in which nothing but the installation's own folder is written to.
    pub fn plain<S: AsRef<OsStr>>(&self, program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("TMPDIR", self.path()).current_dir(self.path());
        for variable in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "DMVERBS_LOG",
            "DMVERBS_PORT_RANGE",
            "DMVERBS_IFNAMES",
            "DMVERBS_DEVMEM",
            "DMVERBS_LANE_PORT",
        ] {
            command.env_remove(variable);
        }
        command
    }

    /// `dmverbs args…`
    pub fn command(&self, args: &[&str]) -> Command {
        self.plain(self.dmverbs(), args)
    }

    /// `dmverbs run -- program…`
    pub fn run(&self, program: &[&str]) -> Command {
        self.command(&[&["run", "--"], program].concat())
    }

    /// Compiles a program of `c/`.
    pub fn compile(&self, source: &str, options: &[&str]) -> String {
        let to = self.path().join(source.trim_end_matches(".c"));
        cc(source, &to, options);
        to.to_str().unwrap().to_owned()
    }

    /// Compiles a library of `c/`.
    pub fn compile_library(&self, source: &str, to: &Path, options: &[&str]) {
        let script = format!("-Wl,--version-script={}", sources().join("standin.map").display());
        let versions = ["-Wl,-soname,libibverbs.so.1", &script];
        let shape: &[&str] = if source == "standin.c" { &versions } else { &[] };
        cc(source, to, &[&["-shared", "-fPIC"], shape, options].concat());
    }
}

/// What a command printed; it must have ended well.
#[track_caller]
pub fn stdout(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// How a command failed: its exit status, and what it wrote to standard error.
#[track_caller]
pub fn failure(mut command: Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code().expect("no signal ended it"), String::from_utf8(stderr).unwrap())
}

/// Whether this process may do what only root may; where not, says which test is skipped.
pub fn is_root(test: &str) -> bool {
    // SAFETY: geteuid(2) always succeeds.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("skipped: {test}: it needs root");
    }
    root
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/c")
}

fn cc(source: &str, to: &Path, options: &[&str]) {
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-o"]).arg(to).arg(sources().join(source)).args(options).arg("-ldl");
    let output = cc.output().expect("cc is installed");
    assert!(output.status.success(), "{cc:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The library that `dmverbs run` preloads. Cargo does not build a cdylib for another package's tests.
fn preload() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_dmverbs")).parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "dmverbs-preload", "--target-dir"]).arg(folder.parent().unwrap());
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&output.stderr));
        folder.join("libdmverbs_preload.so")
    })
}
