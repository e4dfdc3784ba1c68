//! What the figures were measured on: nothing that names the machine.

use std::fs;
use std::time::Duration;

/// One line each: cores, processor, memory, kernel, compiler.
pub(crate) fn summary() -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown", |(_, name)| name.trim());
    let memory = read("/proc/meminfo");
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().split(' ').next()?.parse().ok())
        .unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let os = read("/etc/os-release");
    let os =
        os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown").trim_matches('"').to_owned();
    vec![format!("{} cores, {model}, {} GB", cores(), kib / 1_000_000), format!("Linux {}, {os}", kernel.trim())]
}

/// Time that all cores together have spent at work so far, stolen time included.
pub(crate) fn busy() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    // cpu user nice system idle iowait irq softirq steal guest …; guest is part of user
    let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8).enumerate();
    let ticks: u64 =
        ticks.filter(|(field, _)| !matches!(field, 3 | 4)).filter_map(|(_, ticks)| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// How many cores the machine has, ours or not.
pub(crate) fn cores() -> usize {
    fs::read_to_string("/proc/stat")
        .unwrap_or_default()
        .lines()
        .filter(|line| line.starts_with("cpu"))
        .count()
        .saturating_sub(1)
        .max(1)
}
