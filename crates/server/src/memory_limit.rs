//! The memory limit of the process: what of it is for workspaces, and what `auto` is.

use bytesize::ByteSize;
use std::fs;

/// What the process takes besides workspaces and the database: code, threads, buffers of the log and of connections.
const BASE: u64 = 64 << 20;

/// The least that a limit must leave for workspaces.
const MIN_FOR_WORKSPACES: u64 = 1 << 20;

/// The least that `auto` leaves for workspaces, also on a machine that is too small.
const MIN_AUTO: u64 = 16 << 20;

/// The files that limit a control group, version 2 and version 1. A container sees its own group there.
const GROUP_LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

const MACHINE: &str = "/proc/meminfo";

/// The bytes of a limit that are for workspaces, beside a database that takes `database` bytes.
///
/// # Errors
/// The limit is too low: why.
pub(crate) fn for_workspaces(limit: u64, database: u64) -> Result<u64, String> {
    let others = database.saturating_add(BASE);
    let left = limit.saturating_sub(others);
    if left >= MIN_FOR_WORKSPACES {
        return Ok(left);
    }
    let [limit, others, min] = [limit, others, MIN_FOR_WORKSPACES].map(ByteSize);
    Err(format!(
        "{limit} is too little: the process takes {others} besides the workspaces, and they need {min} at least"
    ))
}

/// What workspaces may take by default: their part of 60 % of the memory of the control group or the machine. `None`
/// where neither is known.
pub(crate) fn auto(database: u64) -> Option<u64> {
    let group = GROUP_LIMITS
        .iter()
        .find_map(|path| group_limit(&read(path)?));
    let machine = read(MACHINE).and_then(|text| machine_memory(&text));
    let all = [group, machine].into_iter().flatten().min()?;
    let limit = all / 10 * 6;
    Some(
        for_workspaces(limit, database)
            .unwrap_or_default()
            .max(MIN_AUTO),
    )
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// `None` for `max`, which is no limit.
fn group_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn machine_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_database_and_the_process_take_is_not_for_workspaces() {
        let database = 128 << 20;
        let beside = |limit| for_workspaces(limit, database);
        assert_eq!(beside(1 << 30), Ok((1 << 30) - (192 << 20)));
        assert_eq!(beside(193 << 20), Ok(1 << 20));
        beside((193 << 20) - 1).unwrap_err();
        for_workspaces(1 << 30, u64::MAX).unwrap_err();
    }

    #[test]
    fn the_group_and_the_machine_are_read() {
        assert_eq!(group_limit("1073741824\n"), Some(1 << 30));
        assert_eq!(group_limit("max\n"), None);
        let meminfo = "MemTotal:       24000000 kB\nMemFree: 1 kB\n";
        assert_eq!(machine_memory(meminfo), Some(24_000_000 * 1024));
        assert_eq!(machine_memory("MemFree: 1 kB"), None);
    }
}
