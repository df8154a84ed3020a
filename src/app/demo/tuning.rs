//! The configuration of the private PostgreSQL.

use std::path::Path;

/// Room for parallel work in shared memory, in MiB. Containers often have less.
const SHARED_MEMORY: u64 = 256;

/// Settings for two cores and five million rows, and why.
const SETTINGS: &[(&str, &str, &str)] = &[
    ("listen_addresses", "127.0.0.1", "this machine only"),
    (
        "unix_socket_directories",
        "",
        "TCP is enough, and socket paths have a length limit",
    ),
    (
        "password_encryption",
        "scram-sha-256",
        "also before PostgreSQL 14",
    ),
    (
        "max_connections",
        "100",
        "the pool is 20; the rest is for you",
    ),
    (
        "shared_buffers",
        "512MB",
        "tables and indexes of the full data",
    ),
    ("effective_cache_size", "1GB", "with the kernel's cache"),
    ("work_mem", "64MB", "the lists sort 100 000 rows"),
    ("maintenance_work_mem", "256MB", "index builds"),
    ("max_wal_size", "2GB", "few checkpoints while seeding"),
    ("checkpoint_timeout", "15min", "the same"),
    ("wal_level", "minimal", "nothing is replicated"),
    ("max_wal_senders", "0", "asked for by wal_level = minimal"),
    (
        "fsync",
        "off",
        "a demo: the data are made again if the machine crashes",
    ),
    ("synchronous_commit", "off", "the same"),
    ("full_page_writes", "off", "the same"),
    ("max_parallel_workers_per_gather", "1", "two cores"),
    ("max_parallel_maintenance_workers", "1", "two cores"),
    (
        "random_page_cost",
        "1.1",
        "data in memory or on a solid disk",
    ),
    ("jit", "off", "the statements are short"),
    ("lc_messages", "C", "whatever the language of this machine"),
    ("log_line_prefix", "%m [%p] ", ""),
    ("timezone", "UTC", "wherever this machine is"),
];

/// The text of postgresql.conf, for a server on `port` whose clients are judged
/// by the file `rules`.
pub fn configuration(port: u16, rules: &Path) -> String {
    // Parallel index builds fail where /dev/shm is small.
    let shared = match free_shared_memory() < SHARED_MEMORY {
        true => "mmap",
        false => "posix",
    };
    let mut text = String::from("# Written at each start of the demo.\n");
    for (name, value, why) in SETTINGS {
        text += &setting(name, value, why);
    }
    text += &setting("port", &port.to_string(), "PG_PORT");
    text += &setting("hba_file", &rules.to_string_lossy(), "");
    text + &setting(
        "dynamic_shared_memory_type",
        shared,
        "by the size of /dev/shm",
    )
}

/// A line of postgresql.conf.
fn setting(name: &str, value: &str, why: &str) -> String {
    let line = format!("{name} = '{}'", value.replace('\'', "''"));
    match why {
        "" => line + "\n",
        why => format!("{line:<45} # {why}\n"),
    }
}

/// MiB.
fn free_shared_memory() -> u64 {
    rustix::fs::statvfs("/dev/shm").map_or(0, |fs| (fs.f_bavail * fs.f_frsize) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted() {
        assert_eq!(setting("hba_file", "/it's", ""), "hba_file = '/it''s'\n");
    }
}
