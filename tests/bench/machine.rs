//! The machine: what it is, and how long its disk takes for the smallest durable write.

#![allow(clippy::disallowed_methods)] // A benchmark reads the clock.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use rustix::fs::OFlags;

use crate::Failure;

const SECTOR: usize = 4096;
/// Sectors of the file that is written to: overwritten in place, as a log that was made ahead.
const SECTORS: usize = 2_048;

/// What a reader of the report must know of it.
pub(crate) struct Machine {
    /// As the kernel names the processor.
    pub(crate) processor: String,
    /// How many of its cores are ours.
    pub(crate) cores: usize,
    /// Of main memory.
    pub(crate) memory_gib: f64,
    /// Name and release.
    pub(crate) kernel: String,
    /// File system type of the data, and of the device as far as the kernel says.
    pub(crate) disk: String,
    /// Median of 4 KiB written directly and durably, one at a time.
    pub(crate) durable_write_ms: f64,
}

impl Machine {
    /// Looks and measures.
    pub(crate) fn look(folder: &Path) -> Result<Self, Failure> {
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let processor = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let memory = fs::read_to_string("/proc/meminfo")?;
        let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = memory.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
        let kernel = rustix::system::uname();
        Ok(Self {
            processor: processor.unwrap_or("unknown").trim_start_matches([' ', '\t', ':']).into(),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: kib.unwrap_or(0.0) / f64::from(1 << 20),
            kernel: format!(
                "{} {}",
                kernel.sysname().to_string_lossy(),
                kernel.release().to_string_lossy()
            ),
            disk: disk(folder),
            durable_write_ms: durable_write_ms(folder)?,
        })
    }
}

/// The mount that holds `folder`: device and file system.
fn disk(folder: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        Some((fields.next()?, fields.next()?, fields.next()?))
    });
    let holding = fields.filter(|(_, at, _)| folder.starts_with(at));
    let mount = holding.max_by_key(|(_, at, _)| at.len());
    mount.map_or_else(|| "unknown".into(), |(device, _, kind)| format!("{device}, {kind}"))
}

fn durable_write_ms(folder: &Path) -> Result<f64, Failure> {
    let path = folder.join("durable-write");
    fs::write(&path, vec![1; SECTOR * SECTORS])?;
    fs::File::open(&path)?.sync_all()?;
    let flags = OFlags::DIRECT | OFlags::DSYNC;
    let mut file =
        fs::OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(&path)?;
    // Direct I/O wants an aligned address: the part of a larger buffer that starts at one.
    let buffer = vec![7_u8; 2 * SECTOR];
    let skip = buffer.as_ptr().align_offset(SECTOR);
    let sector = &buffer[skip..skip + SECTOR];
    let mut taken = Vec::with_capacity(SECTORS);
    for number in 0..SECTORS {
        file.seek(SeekFrom::Start((number * SECTOR) as u64))?;
        let begun = Instant::now();
        file.write_all(sector)?;
        taken.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(&path)?;
    taken.sort_by(f64::total_cmp);
    Ok(taken[SECTORS / 2])
}
