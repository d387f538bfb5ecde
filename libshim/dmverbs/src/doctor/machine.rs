//! The machine, its kernel, and this process.

use std::fs;
use std::path::{Path, PathBuf};

use dmverbs_netdev::broker;
use dmverbs_provider::object;

use super::Check;
use crate::{libdir, privilege};

/// What nothing works without, but for the devices.
pub fn essentials() -> Vec<Check> {
    let libraries = match libdir::libraries() {
        Ok(folder) => Check::ok("libraries", folder.display().to_string()),
        Err(failure) => Check::missing("libraries", failure.to_string()),
    };
    let limit = limit("Max open files");
    let enough = limit.is_none_or(|limit| limit >= FEWEST_DESCRIPTORS);
    let what = "file descriptors (RLIMIT_NOFILE)";
    let descriptors = Check::of(enough, what, amount(limit), format!("ulimit -n {FEWEST_DESCRIPTORS}"));
    vec![libraries.essential(), descriptors.essential()]
}

/// The devices that programs will find, and the interfaces of these, but lo.
pub fn devices() -> (Check, Vec<String>) {
    match object::devices() {
        Err(error) => (Check::missing("devices", error.to_string()).essential(), Vec::new()),
        Ok(devices) => {
            let names: Vec<String> = devices.iter().map(|device| device.name().to_owned()).collect();
            let fix = "ip link set lo up, or give an interface an address";
            let detail = if names.is_empty() { "no interface has an address".to_owned() } else { names.join(" ") };
            let check = Check::of(!names.is_empty(), "devices", detail, fix).essential();
            let ifnames = devices.iter().map(|device| device.ifname().to_owned()).filter(|name| name != "lo");
            (check, ifnames.collect())
        }
    }
}

/// The kernel and what it lets this process do.
pub fn kernel() -> Vec<Check> {
    let release = read("/proc/sys/kernel/osrelease");
    let kernel = |what: &str, (major, minor)| {
        let new_enough = version(&release).is_some_and(|found| found >= (major, minor));
        Check::of(new_enough, what, format!("Linux {release}"), format!("Linux {major}.{minor} or later"))
    };
    let (allowed, detail) = if privilege::has_net_admin() {
        (true, "this process has it")
    } else if broker::answers() {
        (true, "the broker has it")
    } else {
        (false, "this process does not have it, and no broker answers")
    };
    let what = "CAP_NET_ADMIN, to receive into device memory";
    vec![
        kernel("kernel, to receive into device memory", RX_KERNEL),
        kernel("kernel, to send from device memory", TX_KERNEL),
        Check::of(allowed, what, detail, "run as root, or run `dmverbs broker` as root"),
    ]
}

/// Where device memory can come from.
pub fn memory() -> Vec<Check> {
    let udmabuf = Path::new("/dev/udmabuf").exists();
    let heaps = matching("/dev/dma_heap", "");
    let accelerators = matching("/dev", "softaccel");
    let gpus: Vec<PathBuf> = matching("/dev", "nvidia");
    let gpus: Vec<PathBuf> = gpus.into_iter().filter(|path| is_gpu(path)).collect();
    let driver = cuda_driver();
    vec![
        Check::of(udmabuf, "dma-bufs of host memory", present(udmabuf, "/dev/udmabuf"), "modprobe udmabuf"),
        list("dma-bufs of the system's heaps", "/dev/dma_heap", &heaps),
        list("soft accelerators", "/dev/softaccel*", &accelerators),
        list("NVIDIA GPUs", "/dev/nvidia*", &gpus),
        match &driver {
            Some(place) => Check::ok("CUDA driver library", place.clone()),
            None => Check::missing("CUDA driver library", "no libcuda.so.1"),
        },
        iommu(!gpus.is_empty()),
    ]
}

/// Limits that device memory meets before host memory does.
pub fn limits() -> Vec<Check> {
    let path = "/proc/sys/net/core/optmem_max";
    let optmem = match read(path).parse::<u64>() {
        Ok(size) => Check::of(
            size >= OPTMEM,
            "memory for zero-copy sends (net.core.optmem_max)",
            format!("{size} bytes"),
            format!("sysctl -w net.core.optmem_max={OPTMEM}"),
        ),
        Err(_) => Check::missing("memory for zero-copy sends (net.core.optmem_max)", format!("{path} cannot be read")),
    };
    let memlock = limit("Max locked memory");
    let enough = memlock.is_none_or(|limit| limit >= MEMLOCK);
    let detail = if memlock.is_some() { format!("{} bytes", amount(memlock)) } else { amount(memlock) };
    let fix = format!("ulimit -l {}", MEMLOCK / 1024);
    vec![optmem, Check::of(enough, "locked memory (RLIMIT_MEMLOCK)", detail, fix)]
}

/// bind-rx came with this one,
const RX_KERNEL: (u32, u32) = (6, 12);
/// and bind-tx with this.
const TX_KERNEL: (u32, u32) = (6, 16);
/// What Linux gives a process unless told otherwise.
const FEWEST_DESCRIPTORS: u64 = 1024;
/// What Linux has unless told otherwise, since 6.7; before, it was a sixth of that.
const OPTMEM: u64 = 128 << 10;
/// What Linux gives a process unless told otherwise, since 5.16.
const MEMLOCK: u64 = 8 << 20;

/// Peer-to-peer DMA between a GPU and a NIC does not always get through address translation.
fn iommu(gpu: bool) -> Check {
    let groups = matching("/sys/kernel/iommu_groups", "");
    let translating = groups.iter().filter(|group| read(group.join("type")).starts_with("DMA")).count();
    let detail = match (groups.len(), translating) {
        (0, _) => "off".to_owned(),
        (groups, 0) => format!("passes all of its {groups} groups through"),
        (groups, some) => format!("translates addresses for {some} of its {groups} groups"),
    };
    Check::of(
        translating == 0 || !gpu,
        "IOMMU",
        detail,
        "boot with iommu=pt, if a GPU's memory cannot be received into",
    )
}

/// The library is looked for, not loaded.
fn cuda_driver() -> Option<String> {
    const NAME: &str = "libcuda.so.1";
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/cuda/compat", "/usr/lib/wsl/lib"];
    let found = folders.iter().map(|folder| Path::new(folder).join(NAME)).find(|path| path.exists());
    found.map(|path| path.display().to_string()).or_else(|| {
        let cache = fs::read("/etc/ld.so.cache").ok()?;
        let name = format!("/{NAME}\0");
        cache.windows(name.len()).any(|window| window == name.as_bytes()).then(|| format!("{NAME} of /etc/ld.so.cache"))
    })
}

/// `/dev/nvidia0`, but not `/dev/nvidiactl`.
fn is_gpu(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.strip_prefix("nvidia").is_some_and(|number| number.parse::<u32>().is_ok())
}

fn list(what: &str, place: &str, found: &[PathBuf]) -> Check {
    let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() { Check::missing(what, format!("no {place}")) } else { Check::ok(what, names.join(" ")) }
}

fn present(there: bool, path: &str) -> String {
    if there { path.to_owned() } else { format!("no {path}") }
}

/// What is in a folder and begins so, in order.
fn matching(folder: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// This process' soft limit; None if there is none.
fn limit(name: &str) -> Option<u64> {
    soft_limit(&read("/proc/self/limits"), name)
}

fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn amount(limit: Option<u64>) -> String {
    limit.map_or("unlimited".to_owned(), |limit| limit.to_string())
}

/// Major and minor number of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.12.57+deb13-amd64"), Some((6, 12)));
        assert_eq!(version("7.3-rc1"), Some((7, 3)));
        assert!(version("6.9.1").unwrap() < RX_KERNEL);
        assert_eq!(version("what"), None);
    }

    #[test]
    fn soft_limits_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n\
                      Max locked memory         unlimited            unlimited            bytes\n";
        assert_eq!(soft_limit(limits, "Max open files"), Some(1024));
        assert_eq!(soft_limit(limits, "Max locked memory"), None);
    }

    #[test]
    fn control_devices_are_no_gpus() {
        assert!(is_gpu(Path::new("/dev/nvidia0")) && is_gpu(Path::new("/dev/nvidia12")));
        assert!(!is_gpu(Path::new("/dev/nvidiactl")) && !is_gpu(Path::new("/dev/nvidia-uvm")));
    }
}
