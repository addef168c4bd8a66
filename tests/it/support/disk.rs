//! A file system of its own for a node, whose power can be cut and whose device can fail.
//!
//! ```text
//! file ── loop ── ext4 "device" ── file ── loop ── ext4 "disk": the node's data
//!                   └ shut down: every access to the device fails
//!                                                    └ shut down: what was not durable is gone
//! ```
//! "Shut down" is an ioctl of ext4 (and XFS) that was made for such tests.
//! Deliberately absent: device mapper, which many kernels for small machines lack.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::program::output_of;
use super::wait;

/// Size of the node's file system; the file takes what is used of it.
const BYTES: u64 = 12 << 30;

/// Mounted file systems; unmounted when it is dropped.
pub(crate) struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Makes and mounts them in `dir`.
    ///
    /// # Errors
    /// What is missing here: root, loop devices, `mkfs.ext4`.
    pub(crate) fn new(dir: PathBuf) -> Result<Self, String> {
        let disk = Self { dir };
        for (place, bytes) in [("device", BYTES + (BYTES >> 3)), ("disk", BYTES)] {
            let image = disk.image(place);
            fs::create_dir_all(disk.dir.join(place)).map_err(|error| error.to_string())?;
            let file = File::create(&image).and_then(|file| file.set_len(bytes));
            file.map_err(|error| error.to_string())?;
            let options = ["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
            output_of(Command::new("mkfs.ext4").args(options).arg(&image))?;
            disk.mount(place)?;
        }
        Ok(disk)
    }

    /// The node's file system.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.join("disk")
    }

    /// From now on nothing that is not durable yet will ever be.
    pub(crate) fn cut_power(&self) {
        shut_down(&self.path());
    }

    /// From now on every access to the device fails.
    pub(crate) fn fail(&self) {
        shut_down(&self.dir.join("device"));
    }

    /// After a power cut or a failure, when nothing uses it any more: mounts it again.
    pub(crate) fn restore(&self) {
        for place in ["disk", "device"] {
            // The kernel lets go of files some time after their process has ended.
            let unmount = || output_of(Command::new("umount").arg(self.dir.join(place))).ok();
            wait::until("nobody to use the disk", unmount);
        }
        for place in ["device", "disk"] {
            self.mount(place).expect("its journal is whole");
        }
    }

    /// Takes all space but so many bytes.
    pub(crate) fn fill(&self, left: u64) {
        let available =
            output_of(Command::new("df").args(["-B1", "--output=avail"]).arg(self.path()));
        let available = available.expect("df works");
        let available: u64 =
            available.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number");
        let bytes = available.saturating_sub(left).to_string();
        let mut fallocate = Command::new("fallocate");
        output_of(fallocate.args(["-l", &bytes]).arg(self.ballast())).expect("there is room");
    }

    /// Gives it back.
    pub(crate) fn free(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    fn image(&self, place: &str) -> PathBuf {
        match place {
            "device" => self.dir.join("device.img"),
            _ => self.dir.join("device").join("disk.img"),
        }
    }

    fn mount(&self, place: &str) -> Result<(), String> {
        let (image, at) = (self.image(place), self.dir.join(place));
        output_of(Command::new("mount").args(["-o", "loop"]).arg(image).arg(at)).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for place in ["disk", "device"] {
            // One that is not mounted need not be unmounted; one in use goes when it no longer is.
            let _ = output_of(Command::new("umount").arg("--lazy").arg(self.dir.join(place)));
        }
    }
}

/// EXT4_IOC_SHUTDOWN, without flushing the journal.
fn shut_down(mounted: &Path) {
    const NO_LOG_FLUSH: u32 = 2;
    let script = "import fcntl, os, struct, sys\n\
                  fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, \
                  struct.pack('I', int(sys.argv[2])))";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(mounted).arg(NO_LOG_FLUSH.to_string());
    output_of(&mut python).expect("ext4 can be shut down");
}
