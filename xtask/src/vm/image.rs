//! What a guest finds when it boots: an initramfs of this machine's programs, a kernel's modules and the jobs to do.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result, bail};
use cpio::newc::{Builder, trailer};

use super::kernel::Kernel;
use crate::shell;

/// Mode bits of the kinds of files (`S_IFDIR`, `S_IFREG`, `S_IFLNK`).
const DIRECTORY: u32 = 0o04_0000;
const REGULAR: u32 = 0o10_0000;
const LINK: u32 = 0o12_0000;

/// Job of every image: nothing at all.
pub(super) const NOTHING: &str = "nothing";
/// Job of every image: a shell on the console.
pub(super) const SHELL: &str = "shell";
/// What the line begins with that tells a job's exit code.
pub(super) const RESULT: &str = "vm-result:";

/// The first process. It runs the job that the kernel's command line names (`t=NAME`), and tells its exit code.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin HOME=/ TERM=vt100
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec </dev/console >/dev/console 2>&1
hostname guest
ip link set lo up
ulimit -l unlimited
ulimit -n 65536
while read -r module; do insmod "/modules/$module" || echo "cannot load $module"; done </modules/order
job=nothing
for word in $(cat /proc/cmdline); do
    case $word in t=*) job=${word#t=} ;; esac
done
sh "/jobs/$job"
code=$?
echo
echo "vm-result: $job $code"
sync
poweroff -f
"#;

/// An interactive shell, with a terminal of its own so that Ctrl-C reaches what runs in it.
const JOB_SHELL: &str = r#"echo "The programs under test are here; \`exit\` or Ctrl-D powers off, Ctrl-A X kills the machine."
setsid cttyhack /bin/dash -i
exit 0
"#;

/// What an entry of the archive is.
#[derive(Debug)]
enum Entry {
    Directory,
    /// A file of this machine, with its permissions in the guest.
    Copy(PathBuf, u32),
    /// A file made for the guest, with its permissions.
    Text(String, u32),
    Link(String),
}

/// An initramfs in the making.
#[derive(Debug)]
pub(crate) struct Image {
    /// By path without the leading slash, and so directories before what is in them.
    entries: BTreeMap<String, Entry>,
    kernel: Kernel,
    modules: Vec<PathBuf>,
}

impl Image {
    /// An image that boots and has a shell: busybox, with dash in place of its shell (which would prefer busybox's own
    /// `ip` and the like to the real ones) and iproute2 in place of its `ip`.
    ///
    /// # Errors
    /// When one of these programs is not installed.
    pub(crate) fn new(kernel: &Kernel) -> Result<Self> {
        let mut image = Self {
            entries: BTreeMap::new(),
            kernel: kernel.clone(),
            modules: Vec::new(),
        };
        for directory in [
            "dev", "proc", "root", "run", "sys", "tmp", "var/log", "var/lib", "jobs", "modules",
        ] {
            image.directory(directory);
        }
        // Programs are looked for in all of these.
        for link in ["sbin", "usr/bin", "usr/sbin"] {
            image.entry(link, Entry::Link("/bin".to_owned()));
        }
        for applet in shell::output(shell::command("busybox").arg("--list"))?.split_whitespace() {
            image.entry(&format!("bin/{applet}"), Entry::Link("busybox".to_owned()));
        }
        // These come after the applets of the same names.
        image.program("busybox")?.program("dash")?.program("ip")?;
        image.entry("bin/sh", Entry::Link("dash".to_owned()));
        image.text(
            "etc/passwd",
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        );
        image.text("etc/group", "root:x:0:\nnogroup:x:65534:\n");
        image.text("etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n");
        image.entry("init", Entry::Text(INIT.to_owned(), 0o755));
        image.job(NOTHING, "exit 0\n").job(SHELL, JOB_SHELL);
        Ok(image)
    }

    /// Adds an installed program, with the libraries that it needs, as `/bin/NAME`.
    ///
    /// # Errors
    /// When it is not installed.
    pub(crate) fn program(&mut self, name: &str) -> Result<&mut Self> {
        let path = shell::find(name).with_context(|| format!("{name} is not installed"))?;
        self.executable(&format!("bin/{name}"), &path)
    }

    /// Adds an executable file of this machine, with the libraries that it needs.
    ///
    /// # Errors
    /// When its libraries cannot be found.
    pub(crate) fn executable(&mut self, path: &str, source: &Path) -> Result<&mut Self> {
        for library in libraries(source)? {
            let inside = library.display().to_string();
            self.entry(inside.trim_start_matches('/'), Entry::Copy(library, 0o755));
        }
        Ok(self.entry(path, Entry::Copy(source.to_path_buf(), 0o755)))
    }

    /// As [`Self::executable`], without what only a debugger reads; the copy is kept beside the image.
    ///
    /// # Errors
    /// As [`Self::executable`], and when it cannot be copied.
    pub(crate) fn stripped(&mut self, path: &str, source: &Path) -> Result<&mut Self> {
        let name = source.file_name().context("an executable has a name")?;
        let copy = directory()?.join("stripped").join(name);
        let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
        if !matches!((modified(&copy), modified(source)), (Ok(copy), Ok(source)) if copy > source) {
            fs::create_dir_all(directory()?.join("stripped"))?;
            // The images of other kernels are made at the same time, and may only see the whole of it.
            let partial = copy.with_extension(format!("partial-{}-{}", process::id(), self.kernel.series));
            let mut strip = shell::command("strip");
            shell::output(strip.arg("--strip-debug").arg("-o").args([&partial, source]))?;
            fs::rename(&partial, &copy).with_context(|| format!("cannot write {}", copy.display()))?;
        }
        self.executable(path, &copy)
    }

    /// Adds a file of this machine.
    pub(crate) fn file(&mut self, path: &str, source: &Path) -> &mut Self {
        self.entry(path, Entry::Copy(source.to_path_buf(), 0o644))
    }

    /// Adds a file with this text.
    pub(crate) fn text(&mut self, path: &str, text: &str) -> &mut Self {
        self.entry(path, Entry::Text(text.to_owned(), 0o644))
    }

    /// Adds modules of the kernel and those that they need. They are loaded at boot, in this order.
    ///
    /// # Errors
    /// When the kernel has no such module.
    pub(crate) fn modules(&mut self, names: &[&str]) -> Result<&mut Self> {
        for module in self.kernel.modules(names)? {
            if !self.modules.contains(&module) {
                self.modules.push(module);
            }
        }
        Ok(self)
    }

    /// Adds a job: a script for dash, whose exit code is the guest's result.
    pub(crate) fn job(&mut self, name: &str, script: &str) -> &mut Self {
        self.text(&format!("jobs/{name}"), script)
    }

    /// Writes the archive to `<target>/vm/NAME-SERIES.cpio` and returns where it is.
    ///
    /// # Errors
    /// When a file cannot be read, or the archive not be written.
    pub(crate) fn write(&mut self, name: &str) -> Result<PathBuf> {
        self.add_modules()?;
        let path = directory()?.join(format!("{name}-{}.cpio", self.kernel.series));
        // Another run may have a guest that boots from the old one.
        let partial = path.with_extension(format!("partial-{}", process::id()));
        let written = self
            .archive(&partial)
            .and_then(|()| Ok(fs::rename(&partial, &path)?))
            .with_context(|| format!("cannot write {}", path.display()));
        if written.is_err() {
            let _left_behind = fs::remove_file(&partial);
        }
        written.map(|()| path)
    }

    fn add_modules(&mut self) -> Result<()> {
        let mut order = String::new();
        for module in self.modules.clone() {
            let name = module.file_name().context("a module has a name")?.to_string_lossy();
            order.push_str(&format!("{name}\n"));
            self.file(&format!("modules/{name}"), &module);
        }
        self.text("modules/order", &order);
        Ok(())
    }

    fn archive(&self, path: &Path) -> Result<()> {
        let mut archive = BufWriter::new(File::create(path)?);
        for (number, (name, entry)) in (1..).zip(&self.entries) {
            let builder = Builder::new(name).ino(number).nlink(1);
            match entry {
                Entry::Directory => put(builder.mode(DIRECTORY | 0o755), &[], &mut archive)?,
                Entry::Link(target) => put(builder.mode(LINK | 0o777), target.as_bytes(), &mut archive)?,
                Entry::Text(text, mode) => put(builder.mode(REGULAR | mode), text.as_bytes(), &mut archive)?,
                Entry::Copy(source, mode) => {
                    let content = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
                    put(builder.mode(REGULAR | mode), &content, &mut archive)?;
                }
            }
        }
        trailer(archive)?.flush()?;
        Ok(())
    }

    fn directory(&mut self, path: &str) {
        if !path.is_empty() && !self.entries.contains_key(path) {
            self.entry(path, Entry::Directory);
        }
    }

    /// The last entry of a path counts.
    fn entry(&mut self, path: &str, entry: Entry) -> &mut Self {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.entries.insert(path.to_owned(), entry);
        self
    }
}

fn put(builder: Builder, content: &[u8], archive: &mut impl io::Write) -> Result<()> {
    let mut entry = builder.write(archive, u32::try_from(content.len())?);
    entry.write_all(content)?;
    entry.finish()?;
    Ok(())
}

/// Where everything of this verb is kept.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn directory() -> Result<PathBuf> {
    let directory = shell::target_directory()?.join("vm");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// The shared libraries that the dynamic linker would load for an executable, itself among them.
fn libraries(executable: &Path) -> Result<Vec<PathBuf>> {
    let output = shell::command("ldd")
        .arg(executable)
        .output()
        .context("cannot start ldd")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    if complaint.contains("not a dynamic executable") || said.contains("statically linked") {
        return Ok(Vec::new());
    }
    if !output.status.success() {
        bail!("ldd {}: {}", executable.display(), complaint.trim());
    }
    listed(&said).with_context(|| format!("a library of {} is missing", executable.display()))
}

/// The paths in what `ldd` prints, or `None` when one was not found.
fn listed(said: &str) -> Option<Vec<PathBuf>> {
    let paths = said.lines().filter_map(|line| {
        let (path, _address) = line.rsplit_once(" (")?;
        let path = path.rsplit_once("=> ").map_or(path, |(_, path)| path).trim();
        // The kernel's own (linux-vdso.so.1) is no file.
        path.starts_with('/').then(|| path.into())
    });
    (!said.contains("not found")).then(|| paths.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_off_ldd() {
        let said = "\tlinux-vdso.so.1 (0x00007f0a8f0d5000)
\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f0a8edd3000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f0a8f0d7000)\n";
        let paths = listed(said).unwrap();
        assert_eq!(
            paths,
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libz.so.1"),
                PathBuf::from("/lib64/ld-linux-x86-64.so.2")
            ]
        );
        assert_eq!(listed("\tlibz.so.1 => not found\n"), None);
    }

    #[test]
    fn init_tells_the_result_that_the_machine_waits_for() {
        assert!(INIT.contains(RESULT));
    }
}
