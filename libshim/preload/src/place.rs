//! Which paths lead into the shadow.

/// A path that leads into the shadow.
#[derive(Debug, Eq, PartialEq)]
pub struct Place {
    /// The path from the root folder on, without a slash in front. Behind the shadowed folder it is as it was given:
    /// only the kernel knows what `..` means behind a link.
    pub path: Vec<u8>,
    /// The number, if it is a verbs device: `/dev/infiniband/uverbs<number>`.
    pub uverbs: Option<u32>,
}

/// What every path into the shadow has in it.
pub const HINT: &std::ffi::CStr = c"infiniband";

const FOLDERS: [&[u8]; 3] = [b"sys/class/infiniband", b"sys/class/infiniband_verbs", b"dev/infiniband"];

/// Where an absolute path leads; none if it has nothing to do with the shadow.
pub fn place(path: &[u8]) -> Option<Place> {
    let mut rest = path.strip_prefix(b"/")?;
    let mut above: Vec<&[u8]> = Vec::new();
    loop {
        let (name, behind) = split(rest);
        match name {
            b"" | b"." => {}
            b".." => drop(above.pop()),
            name => above.push(name),
        }
        let folder = above.join(&b'/');
        if FOLDERS.contains(&folder.as_slice()) && !escapes(behind) {
            let path = if behind.is_empty() { folder } else { [&folder, behind].join(&b'/') };
            return Some(Place { uverbs: uverbs(&path), path });
        }
        if behind.is_empty() {
            return None;
        }
        rest = behind;
    }
}

/// The first name of a relative path, and what follows it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, b""),
    }
}

/// Whether a relative path leads above where it starts.
fn escapes(path: &[u8]) -> bool {
    let mut depth = 0_usize;
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

fn uverbs(path: &[u8]) -> Option<u32> {
    let name = path.strip_prefix(b"dev/infiniband/")?;
    std::str::from_utf8(name).ok()?.trim_matches('/').strip_prefix("uverbs")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> Option<String> {
        place(path.as_bytes()).map(|place| String::from_utf8(place.path).unwrap())
    }

    #[test]
    fn paths_into_the_shadowed_folders_are_recognised() {
        for (path, expected) in [
            ("/sys/class/infiniband", "sys/class/infiniband"),
            ("/sys/class/infiniband/", "sys/class/infiniband"),
            ("//sys/./class//infiniband/dmv_lo/ports/1", "sys/class/infiniband/dmv_lo/ports/1"),
            ("/sys/class/net/../infiniband/dmv_lo", "sys/class/infiniband/dmv_lo"),
            ("/sys/class/infiniband/../infiniband_verbs/uverbs1", "sys/class/infiniband_verbs/uverbs1"),
            ("/sys/class/infiniband/dmv_lo/device/../x", "sys/class/infiniband/dmv_lo/device/../x"),
            ("/dev/infiniband/uverbs0", "dev/infiniband/uverbs0"),
        ] {
            assert_eq!(found(path).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn other_paths_are_left_alone() {
        for path in [
            "",
            "infiniband",
            "/sys/class/infiniband_mad",
            "/sys/class/infiniband/../net/lo",
            "/sys/class",
            "/home/sys/class/infiniband",
            "/dev/infinibandx",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn verbs_devices_are_known_by_number() {
        assert_eq!(place(b"/dev/infiniband/uverbs12").unwrap().uverbs, Some(12));
        assert_eq!(place(b"/dev/infiniband/rdma_cm").unwrap().uverbs, None);
    }
}
