//! `cargo xtask vm`: runs a command in a virtual machine with Debian's stock kernel and the modules of `kernel/`.
//!
//! The root is a Debian that is made once, and lies under `target/vm` by the hash of its recipe. The machine sees it
//! read-only, with a memory file system over it; the workspace is at `/workspace`.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::tally::Tally;
use crate::test::count;
use crate::{build, debian, output, root, setup};

/// What `cargo xtask vm` takes.
#[derive(clap::Args)]
pub struct Options {
    /// Seconds until the machine is stopped.
    #[arg(long, default_value_t = 300)]
    seconds: u32,
    /// What to run, as bash takes it; network namespaces side0 and side1 hold a port of the virtual NIC each.
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

/// Runs the command; its exit status is ours.
pub fn run(options: &Options) -> Result<ExitCode> {
    let run = Run::prepare(&options.command.join(" "), options.seconds)?;
    let status = run.qemu()?.stdin(Stdio::null()).status().context("qemu-system-x86_64")?;
    ensure!(status.success() || status.code() == Some(124), "qemu ended with {status}");
    Ok(ExitCode::from(run.status()?))
}

/// Runs the tests of `kernel/vm/tests`.
pub fn test() -> Result<Tally> {
    build::c_programs()?;
    let run = Run::prepare("kernel/vm/check", TEST_SECONDS)?;
    let tally = count(&mut run.qemu()?)?;
    run.status()?;
    Ok(tally)
}

/// A machine that is ready to boot.
struct Run {
    machine: Machine,
    /// What is `/out` in the machine.
    out: TempDir,
    seconds: u32,
}

impl Run {
    fn prepare(command: &str, seconds: u32) -> Result<Run> {
        setup::install(&HOST)?;
        build::release()?;
        let folder = root()?.join("target/vm");
        let machine = Machine::make(&folder)?;
        let out = tempfile::Builder::new().prefix("run-").tempdir_in(&folder)?;
        fs::write(out.path().join("command"), command)?;
        for module in machine.modules()? {
            fs::copy(&module, out.path().join(module.file_name().context("a module without a name")?))?;
        }
        Ok(Run { machine, out, seconds })
    }

    /// The command that boots it; its output is that of the command inside.
    fn qemu(&self) -> Result<Command> {
        self.machine.qemu(self.out.path(), self.seconds)
    }

    /// How the command ended.
    fn status(&self) -> Result<u8> {
        let Ok(status) = fs::read_to_string(self.out.path().join("status")) else {
            let console = fs::read_to_string(self.out.path().join("console")).unwrap_or_default();
            bail!("the command did not end within {} s; the console:\n{console}", self.seconds);
        };
        status.trim().parse().with_context(|| format!("status {status:?}"))
    }
}

/// A root, and what is booted with it.
struct Machine {
    root: PathBuf,
    kernel: String,
}

impl Machine {
    fn make(folder: &Path) -> Result<Machine> {
        fs::create_dir_all(folder)?;
        let source = root()?.join("kernel/vm");
        let mut hasher = DefaultHasher::new();
        INCLUDE.hash(&mut hasher);
        for file in RECIPE {
            fs::read_to_string(source.join(file))?.hash(&mut hasher);
        }
        let root = folder.join(format!("root-{:016x}", hasher.finish()));
        if !root.is_dir() {
            println!("Making a Debian {} for the virtual machine, once …", debian::SUITE);
            let partial = root.with_extension("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            let mut command = Command::new("mmdebstrap");
            command.arg("--variant=minbase").arg(format!("--include={INCLUDE}"));
            command.args([debian::SUITE.as_ref(), partial.as_os_str()]);
            for suite in [debian::SUITE.to_owned(), format!("{}-backports", debian::SUITE)] {
                command.arg(debian::source(&suite)?);
            }
            let status = command.stdin(Stdio::null()).status().context("mmdebstrap")?;
            ensure!(status.success(), "mmdebstrap ended with {status}");
            println!("Building the kernel's own tests for it …");
            for file in RECIPE {
                fs::copy(source.join(file), partial.join(file))?;
            }
            output(&mut inside(&partial, &["/selftests"]))?;
            fs::rename(&partial, &root)?;
        }
        let kernel = fs::read_dir(root.join("lib/modules"))?.next().context("the root has no kernel")??;
        let kernel = kernel.file_name().to_string_lossy().into_owned();
        Ok(Machine { root, kernel })
    }

    /// Builds the modules in the root, of which only a copy is written to.
    fn modules(&self) -> Result<[PathBuf; 2]> {
        let copy = self.root.join("build");
        fs::create_dir_all(&copy)?;
        let source = root()?;
        output(Command::new("cp").arg("-ruT").arg(source.join("kernel")).arg(copy.join("kernel")))?;
        output(Command::new("cp").arg("-ruT").arg(source.join("include")).arg(copy.join("include")))?;
        let kdir = format!("KDIR=/lib/modules/{}/build", self.kernel);
        output(&mut inside(
            &self.root,
            &["make", "-s", "-C", "/build/kernel", &kdir, "CONFIG_DEBUG_INFO_BTF_MODULES="],
        ))?;
        Ok(["vhs", "softaccel"].map(|name| copy.join(format!("kernel/{name}/{name}.ko"))))
    }

    /// A first root, which mounts the other.
    fn initramfs(&self, out: &Path) -> Result<PathBuf> {
        let tree = out.join("initramfs");
        for place in ["bin", "modules", "proc", "sys", "dev", "lower", "upper", "new"] {
            fs::create_dir_all(tree.join(place))?;
        }
        fs::copy(self.root.join("bin/busybox"), tree.join("bin/busybox"))?;
        fs::copy(root()?.join("kernel/vm/init"), tree.join("init"))?;
        for (i, module) in MODULES.iter().enumerate() {
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
        let mut qemu = Command::new("timeout");
        qemu.arg(seconds.to_string()).arg("qemu-system-x86_64");
        let accelerator = std::env::var("DMVERBS_VM_ACCEL").unwrap_or_else(|_| "tcg,thread=multi".to_owned());
        qemu.args(["-accel", &accelerator, "-cpu", "max", "-smp", "2", "-m", "3G", "-nodefaults", "-no-reboot"]);
        qemu.args(["-display", "none", "-serial"]).arg(format!("file:{}", out.join("console").display()));
        qemu.args(["-serial", "stdio", "-kernel"]).arg(self.root.join(format!("boot/vmlinuz-{}", self.kernel)));
        qemu.arg("-initrd").arg(initramfs);
        qemu.args(["-append", "console=ttyS0 quiet rdinit=/init panic=-1 mitigations=off"]);
        qemu.args(share("root", &self.root, ",readonly=on"));
        qemu.args(share("workspace", &root()?, ",readonly=on"));
        qemu.args(share("out", out, ""));
        qemu.args(["-object", "memory-backend-ram,size=512M,share=on,id=accelerator"]);
        qemu.args(["-device", "ivshmem-plain,memdev=accelerator"]);
        Ok(qemu)
    }
}

/// A command in a root, with /proc: objtool and the tests' makefiles want it.
fn inside(root: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" \"$@\""]);
    command.arg(root).args(words);
    command
}

/// What the host needs besides.
const HOST: [&str; 4] = ["mmdebstrap", "qemu-system-x86", "cpio", "xz-utils"];

/// The root's packages.
const INCLUDE: &str = "linux-image-amd64/trixie-backports,linux-headers-amd64/trixie-backports,busybox-static,gcc,make,\
                       iproute2,ethtool,iperf3,kmod,procps,iputils-ping,perftest,ibverbs-utils,ibverbs-providers,socat,\
                       linux-source/trixie-backports,linux-libc-dev/trixie-backports,xz-utils,libc6-dev,libmnl-dev,\
                       liburing-dev,python3-yaml,python3-jsonschema";
/// Files of `kernel/vm` that go into the root; the first builds the kernel's own tests there.
const RECIPE: [&str; 2] = ["selftests", "zcrx.h"];

/// How long all tests may take.
const TEST_SECONDS: u32 = 2400;

/// What the initramfs needs, in the order of loading.
const MODULES: [&str; 5] =
    ["fs/netfs/netfs", "net/9p/9pnet", "net/9p/9pnet_virtio", "fs/9p/9p", "fs/overlayfs/overlay"];
