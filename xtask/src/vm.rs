//! `cargo xtask vm`: runs a command in a virtual machine with Debian's stock kernel and the modules of `kernel/`.
//!
//! The root is a Debian that is made once, and lies under `target/vm` by the hash of its recipe. The machine sees it
//! read-only, with a memory file system over it; the workspace is at `/workspace`.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use dmverbs_tests::programs;
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::debian::Tree;
use crate::tally::Tally;
use crate::test::{count, skip, verdict};
use crate::{alone_in, build, debian, output, root, setup};

/// What `cargo xtask vm` takes.
#[derive(clap::Args)]
pub struct Options {
    /// Which of Debian's kernels to boot.
    #[arg(long, value_enum, default_value_t = Kernel::V7_3)]
    kernel: Kernel,
    /// A 7.3 that is built here, once and in about half an hour, with KASAN, lockdep, kmemleak, DMA-API debugging
    /// and fault injection.
    #[arg(long, conflicts_with = "kernel")]
    debug_kernel: bool,
    /// Seconds until the machine is stopped; 0 for never. 300 for a command, if not given.
    #[arg(long)]
    seconds: Option<u32>,
    /// A shell on this terminal instead of a command; without a time limit.
    #[arg(long, conflicts_with_all = ["command", "seconds"])]
    shell: bool,
    /// What to run, as bash takes it; network namespaces side0 and side1 hold a port of the virtual NIC each.
    /// Without one, the tests on the kernel of --debug-kernel: hours.
    #[arg(required_unless_present_any = ["shell", "debug_kernel"], trailing_var_arg = true)]
    command: Vec<String>,
}

/// The kernels that the modules are built for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
enum Kernel {
    /// Of trixie-backports: devmem RX and TX
    #[value(name = "7.3")]
    V7_3,
    /// Of trixie: devmem RX
    #[value(name = "6.12")]
    V6_12,
    /// Of trixie-backports, with `kernel/vm/debug.config`
    #[value(skip)]
    Debug,
}

/// Runs the command; its exit status is ours.
pub fn run(options: &Options) -> Result<ExitCode> {
    let (command, seconds) = if options.shell {
        (SHELL.to_owned(), 0)
    } else if options.command.is_empty() {
        (CHECK.to_owned(), options.seconds.unwrap_or(0))
    } else {
        (options.command.join(" "), options.seconds.unwrap_or(300))
    };
    let kernel = if options.debug_kernel { Kernel::Debug } else { options.kernel };
    let run = Run::prepare(kernel, &command, seconds)?;
    let (status, ()) = run.boot(|qemu| {
        if !options.shell {
            qemu.stdin(Stdio::null());
        }
        let status = qemu.status().context("qemu-system-x86_64")?;
        ensure!(status.success() || status.code() == Some(124), "qemu ended with {status}");
        Ok(())
    })?;
    let Some(status) = status else { bail!("{}", run.lost()) };
    if status == NOT_READY {
        eprintln!("the console:\n{}", run.console());
    }
    Ok(ExitCode::from(status))
}

/// Runs a command on the newest kernel, and returns what it printed.
pub fn capture(command: &str, seconds: u32) -> Result<String> {
    let run = Run::prepare(Kernel::V7_3, command, seconds)?;
    let (status, printed) = run.boot(|qemu| {
        let output = qemu.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("qemu-system-x86_64")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })?;
    let Some(status) = status else { bail!("{}\nprinted:\n{printed}", run.lost()) };
    ensure!(status == 0, "{command} ended with status {status}:\n{printed}");
    Ok(printed)
}

/// Runs the tests of `kernel/vm/tests` on both kernels.
pub fn test() -> Result<Tally> {
    if let Err(why) = may_run() {
        return Ok(skip("vm", &why.to_string()));
    }
    let mut tally = Tally::default();
    for kernel in [Kernel::V7_3, Kernel::V6_12] {
        let run = Run::prepare(kernel, CHECK, TEST_SECONDS)?;
        if kernel == Kernel::V7_3 {
            tally += checkpatch(&run.machine.root)?;
        }
        tally += run.check()?;
    }
    Ok(tally)
}

/// Runs the tests of `tests/devmem/cases`.
pub fn test_devmem() -> Result<Tally> {
    if let Err(why) = may_run() {
        return Ok(skip("devmem", &why.to_string()));
    }
    Run::prepare(Kernel::V7_3, "kernel/vm/check -C tests/devmem/cases", TEST_SECONDS)?.check()
}

fn may_run() -> Result<()> {
    ensure!(geteuid().is_root(), "the virtual machine needs root, which makes the Debian in it");
    Ok(())
}

/// Removes what machines left whose makers were killed.
fn sweep(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(RUN)?.split_once('-')).map(|(pid, _)| pid);
        if maker.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            // Somebody else may be about to.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// Looks at the style of the modules as the kernel's maintainers do.
fn checkpatch(machine: &Path) -> Result<Tally> {
    println!("checkpatch.pl --strict");
    let mut command = Command::new("perl");
    command.arg(machine.join("src/scripts/checkpatch.pl")).current_dir(root()?);
    // compat.h is what a tree with one kernel would not have.
    command.args([
        "--no-tree",
        "--strict",
        "--terse",
        "--show-types",
        "--ignore=LINUX_VERSION_CODE,CONSTANT_COMPARISON",
    ]);
    command.args(["--file", "kernel/compat.h", "include/uapi/softaccel.h"]);
    for module in ["kernel/vhs", "kernel/softaccel", "kernel/vm"] {
        for file in fs::read_dir(root()?.join(module))? {
            let file = file?.path();
            if file.extension().is_some_and(|ending| ending == "c" || ending == "h") {
                command.arg(file.strip_prefix(root()?)?);
            }
        }
    }
    verdict(&mut command)
}

/// A machine that is ready to boot.
struct Run {
    machine: Machine,
    /// What is `/out` in the machine.
    out: TempDir,
    seconds: u32,
}

impl Run {
    fn prepare(kernel: Kernel, command: &str, seconds: u32) -> Result<Run> {
        may_run()?;
        setup::run(&HOST)?;
        build::release()?;
        let (built, seen) = (programs::dmverbs()?, root()?.join("target/release"));
        ensure!(
            built.starts_with(&seen),
            "the virtual machine sees {}, and cargo builds {}: unset CARGO_TARGET_DIR, CARGO_BUILD_TARGET and the like",
            seen.display(),
            built.display()
        );
        build::bindings()?;
        build::c_programs()?;
        let folder = root()?.join("target/vm");
        let machine = Machine::make(&folder, kernel)?;
        sweep(&folder)?;
        let prefix = format!("{RUN}{}-", process::id());
        let out = tempfile::Builder::new().prefix(&prefix).tempdir_in(&folder)?;
        fs::write(out.path().join("command"), command)?;
        for built in machine.build()? {
            fs::copy(&built, out.path().join(built.file_name().context("a file without a name")?))?;
        }
        Ok(Run { machine, out, seconds })
    }

    /// Boots it by `start`, which gets a command whose output is that of the command inside. Returns how that ended, if
    /// it has, and what `start` returned.
    ///
    /// An emulated processor may be late for the kernel's own timers, before anything of ours runs: so there are more
    /// tries for a machine that does not come up.
    fn boot<T>(&self, mut start: impl FnMut(&mut Command) -> Result<T>) -> Result<(Option<u8>, T)> {
        let mut started = start(&mut self.qemu()?)?;
        for _ in 1..BOOTS {
            if self.out.path().join("up").exists() {
                break;
            }
            println!("The machine did not come up, and is booted once more; its console:\n{}", self.console());
            started = start(&mut self.qemu()?)?;
        }
        Ok((self.status()?, started))
    }

    /// Boots it for `kernel/vm/check`, and counts. One that ends early, or does not begin, has failed.
    fn check(&self) -> Result<Tally> {
        let (status, mut tally) = self.boot(count)?;
        let Some(status) = status else {
            println!("{}", self.lost());
            tally.failed += 1;
            return Ok(tally);
        };
        if tally.is_empty() || (status != 0 && tally.failed == 0) {
            println!("the tests ended with status {status}; the console:\n{}", self.console());
            tally.failed += 1;
        }
        Ok(tally)
    }

    fn qemu(&self) -> Result<Command> {
        self.machine.qemu(self.out.path(), self.seconds)
    }

    fn console(&self) -> String {
        let console = fs::read(self.out.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&console).into_owned()
    }

    /// How the command ended; nothing if the machine did before.
    fn status(&self) -> Result<Option<u8>> {
        let Ok(status) = fs::read_to_string(self.out.path().join("status")) else { return Ok(None) };
        status.trim().parse().map(Some).with_context(|| format!("status {status:?}"))
    }

    /// What is to be said then.
    fn lost(&self) -> String {
        let limit = if self.seconds == 0 { String::new() } else { format!(" (it has {} s)", self.seconds) };
        format!("the machine ended before the command did{limit}; the console:\n{}", self.console())
    }
}

/// A root, and what is booted with it.
struct Machine {
    root: PathBuf,
    /// The kernel's release.
    kernel: String,
    /// What the initramfs needs, in the order of loading.
    modules: &'static [&'static str],
}

impl Machine {
    fn make(folder: &Path, kernel: Kernel) -> Result<Machine> {
        let _alone = alone_in(folder)?;
        let source = root()?.join("kernel/vm");
        let mut hasher = DefaultHasher::new();
        let packages = kernel.packages();
        packages.hash(&mut hasher);
        let recipe = kernel.recipe();
        for file in recipe {
            fs::read_to_string(source.join(file))?.hash(&mut hasher);
        }
        let root = folder.join(format!("root-{:016x}", hasher.finish()));
        if !root.is_dir() {
            let (suite, version) = (debian::SUITE, kernel.version());
            println!("Making a Debian {suite} with Linux {version} for the virtual machine, once …");
            let partial = root.with_extension("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            let mut command = Command::new("mmdebstrap");
            command.arg("--variant=minbase").arg(format!("--include={packages}"));
            command.args([debian::SUITE.as_ref(), partial.as_os_str()]);
            for suite in [debian::SUITE.to_owned(), format!("{}-backports", debian::SUITE)] {
                command.arg(debian::source(&suite)?);
            }
            let status = command.stdin(Stdio::null()).status().context("mmdebstrap")?;
            ensure!(status.success(), "mmdebstrap ended with {status}");
            for file in recipe {
                fs::copy(source.join(file), partial.join(file))?;
            }
            if kernel == Kernel::Debug {
                println!("Building the kernel for it …");
                let status = inside(&partial, &["/debug-kernel"]).stdin(Stdio::null()).status()?;
                ensure!(status.success(), "kernel/vm/debug-kernel ended with {status}");
            }
            println!("Building the kernel's own tests for it …");
            output(&mut inside(&partial, &["/selftests"]))?;
            fs::rename(&partial, &root)?;
        }
        let release = fs::read_dir(root.join("lib/modules"))?.next().context("the root has no kernel")??;
        let release = release.file_name().to_string_lossy().into_owned();
        Ok(Machine { root, kernel: release, modules: if kernel == Kernel::Debug { &[] } else { &MODULES } })
    }

    /// Builds the modules, and the program of `kernel/vm`, in the root from a copy of the sources: once for each content
    /// of theirs, and from nothing, so that nothing of an older one is left in them.
    fn build(&self) -> Result<[PathBuf; 3]> {
        let sources = Sources::read(&root()?, &["kernel", "include"])?;
        let built = self.root.join(format!("build-{:016x}", sources.key()));
        if !built.is_dir() {
            let copy = tempfile::Builder::new().prefix("build-").suffix(".partial").tempdir_in(&self.root)?;
            sources.write(copy.path())?;
            let kernel =
                Path::new("/").join(copy.path().file_name().context("a folder without a name")?).join("kernel");
            let kdir = format!("KDIR=/lib/modules/{}/build", self.kernel);
            let make = |folder: &Path| {
                let mut command = inside(&self.root, &["make", "-s", "-j2", "-C"]);
                command.arg(folder);
                command
            };
            output(make(&kernel).args([&kdir, "CONFIG_DEBUG_INFO_BTF_MODULES="]))?;
            output(make(&kernel.join("vm")).arg("YNL=/src/tools/net/ynl"))?;
            // Somebody else may have built the same meanwhile.
            let moved = fs::rename(copy.path(), &built);
            ensure!(moved.is_ok() || built.is_dir(), "{} cannot be made: {moved:?}", built.display());
        }
        Ok(["vhs/vhs.ko", "softaccel/softaccel.ko", "vm/devmem"].map(|name| built.join("kernel").join(name)))
    }

    /// A first root, which mounts the other.
    fn initramfs(&self, out: &Path) -> Result<PathBuf> {
        let tree = out.join("initramfs");
        for place in ["bin", "modules", "proc", "sys", "dev", "lower", "upper", "new"] {
            fs::create_dir_all(tree.join(place))?;
        }
        fs::copy(self.root.join("bin/busybox"), tree.join("bin/busybox"))?;
        fs::copy(root()?.join("kernel/vm/init"), tree.join("init"))?;
        for (i, module) in self.modules.iter().enumerate() {
            let packed =
                self.root.join("lib/modules").join(&self.kernel).join("kernel").join(format!("{module}.ko.xz"));
            let name = Path::new(module).file_name().context("a module without a name")?.to_string_lossy();
            let unpacked = File::create(tree.join(format!("modules/{i}-{name}.ko")))?;
            let status = Command::new("xz").arg("-dc").arg(&packed).stdout(unpacked).status()?;
            ensure!(status.success(), "{} cannot be unpacked", packed.display());
        }
        let image = out.join("initramfs.cpio");
        let script = "chmod +x init && find . | cpio --quiet -o -H newc > \"$0\"";
        output(Command::new("sh").args(["-c", script]).arg(&image).current_dir(&tree))?;
        Ok(image)
    }

    fn qemu(&self, out: &Path, seconds: u32) -> Result<Command> {
        let initramfs = self.initramfs(out)?;
        let share = |tag: &str, path: &Path, how: &str| {
            [
                "-fsdev".to_owned(),
                format!("local,id={tag},path={},security_model=none,multidevs=remap{how}", path.display()),
                "-device".to_owned(),
                format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
            ]
        };
        let emulator = QEMU.unpack()?;
        // It ends with us, whoever ends us.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "TERM", "timeout", "--foreground"]).arg(seconds.to_string());
        qemu.args(debian::loader(&emulator)).arg(emulator.join("usr/bin/qemu-system-x86_64"));
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(emulator.join(folder));
        }
        let accelerator = std::env::var("DMVERBS_VM_ACCEL").unwrap_or_else(|_| "tcg,thread=multi".to_owned());
        // Emulation is slow, byte by byte, where the kernel takes string moves for fast; and with tables of five levels
        // KASAN sees mistakes in the kernel's boot that are none.
        qemu.args(["-accel", &accelerator, "-cpu", "max,erms=off,fsrm=off,la57=off"]);
        qemu.args(["-smp", "2", "-m", "3G", "-nodefaults", "-no-reboot"]);
        qemu.args(["-display", "none", "-serial"]).arg(format!("file:{}", out.join("console").display()));
        qemu.args(["-chardev", "stdio,id=terminal,signal=off", "-serial", "chardev:terminal"]);
        qemu.arg("-kernel").arg(self.root.join(format!("boot/vmlinuz-{}", self.kernel)));
        qemu.arg("-initrd").arg(initramfs);
        // The kernel patches its own code mostly while it boots: the other processors (see QEMU) come up later.
        qemu.args(["-append", "console=ttyS0 rdinit=/init panic=-1 mitigations=off kasan_multi_shot maxcpus=1"]);
        qemu.args(share("root", &self.root, ",readonly=on"));
        qemu.args(share("workspace", &root()?, ",readonly=on"));
        qemu.args(share("out", out, ""));
        qemu.args(["-object", "memory-backend-ram,size=512M,share=on,id=accelerator"]);
        qemu.args(["-device", "ivshmem-plain,memdev=accelerator"]);
        Ok(qemu)
    }
}

/// The files that the modules are built from: their paths from the root of the tree, in order, and what they hold.
#[derive(Hash)]
struct Sources(BTreeMap<PathBuf, Vec<u8>>);

impl Sources {
    /// Reads those in folders of the tree.
    fn read(tree: &Path, folders: &[&str]) -> Result<Sources> {
        let mut found = BTreeMap::new();
        let mut left: Vec<PathBuf> = folders.iter().map(|folder| tree.join(folder)).collect();
        while let Some(folder) = left.pop() {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                let name = path.file_name().unwrap_or_default();
                if path.is_dir() {
                    left.push(path);
                } else if path.extension().is_some_and(|ending| ending == "c" || ending == "h")
                    || name == "Makefile"
                    || name == "Kbuild"
                {
                    found.insert(path.strip_prefix(tree)?.to_owned(), fs::read(&path)?);
                }
            }
        }
        Ok(Sources(found))
    }

    fn key(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    fn write(&self, to: &Path) -> Result<()> {
        for (path, content) in &self.0 {
            let path = to.join(path);
            fs::create_dir_all(path.parent().context("a file without a folder")?)?;
            fs::write(path, content)?;
        }
        Ok(())
    }
}

impl Kernel {
    fn version(self) -> &'static str {
        match self {
            Kernel::V7_3 => "7.3",
            Kernel::V6_12 => "6.12",
            Kernel::Debug => "7.3 for debugging",
        }
    }

    /// The root's packages, as mmdebstrap takes them.
    fn packages(self) -> String {
        let kernel = match self {
            Kernel::V7_3 => "linux-image-amd64/trixie-backports,linux-headers-amd64/trixie-backports",
            Kernel::V6_12 => "linux-image-amd64,linux-headers-amd64",
            Kernel::Debug => "bc,bison,flex,libelf-dev,libssl-dev",
        };
        format!("{kernel},{INCLUDE}")
    }

    /// Files of `kernel/vm` that go into the root, where some are run.
    fn recipe(self) -> &'static [&'static str] {
        match self {
            Kernel::V7_3 | Kernel::V6_12 => &["selftests", "zcrx.h"],
            Kernel::Debug => &["selftests", "zcrx.h", "debug-kernel", "debug.config"],
        }
    }
}

/// A command in a root, with /proc: objtool and the tests' makefiles want it.
fn inside(root: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" \"$@\""]);
    command.arg(root).args(words);
    command
}

/// The emulator. One processor may go on with a translation of what another has just overwritten; where the kernel patches
/// its own code, that is a breakpoint that nobody waits for: `Oops: int3`. Since version 8.1, which locks the page that it
/// translates, this is some forty times rarer.
const QEMU: Tree = Tree { name: "qemu", packages: &["qemu-system-x86"], dependencies: true };

/// What the host needs besides.
pub const HOST: [&str; 4] = ["mmdebstrap", "cpio", "xz-utils", "perl"];

/// The root's packages besides the kernel.
const INCLUDE: &str = "busybox-static,gcc,make,iproute2,ethtool,iperf3,kmod,procps,iputils-ping,perftest,ibverbs-utils,\
                       ibverbs-providers,socat,linux-source/trixie-backports,linux-libc-dev/trixie-backports,xz-utils,\
                       libc6-dev,libmnl-dev,liburing-dev,gcc-bpf,libbpf-dev,bpftool,python3-yaml,python3-jsonschema";

/// What is run for a person.
const SHELL: &str = "stty -F /dev/ttyS1 sane && setsid --ctty --wait bash -i <> /dev/ttyS1 >&0 2>&0";

/// What the folders of running machines are called, before their maker's number and a hyphen.
const RUN: &str = "run-";

/// How often a machine is booted until it comes up.
const BOOTS: usize = 3;

/// What runs the tests.
const CHECK: &str = "kernel/vm/check";

/// How `kernel/vm/run` ends when the modules or their interfaces cannot be had.
const NOT_READY: u8 = 125;

/// How long all tests may take.
const TEST_SECONDS: u32 = 4800;

/// What the root needs of Debian's kernels, in the order of loading.
const MODULES: [&str; 5] =
    ["fs/netfs/netfs", "net/9p/9pnet", "net/9p/9pnet_virtio", "fs/9p/9p", "fs/overlayfs/overlay"];
