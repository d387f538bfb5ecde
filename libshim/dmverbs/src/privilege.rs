//! What this process may do.

use std::fs;

/// Whether this process has CAP_NET_ADMIN, be it in a user namespace that has no say over its network namespace.
pub fn has_net_admin() -> bool {
    effective(&fs::read_to_string("/proc/thread-self/status").unwrap_or_default()) & 1 << CAP_NET_ADMIN != 0
}

const CAP_NET_ADMIN: u32 = 12;

fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::effective;

    #[test]
    fn the_mask_is_that_of_the_effective_set() {
        assert_eq!(effective("CapPrm:\tffff\nCapEff:\t0000000000001000\nCapBnd:\t01\n"), 1 << 12);
        assert_eq!(effective(""), 0);
    }
}
