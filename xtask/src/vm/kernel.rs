//! Debian's kernels: the newest package of a series, unpacked, with its modules.

use std::{
    collections::HashSet,
    fmt, fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::shell;

/// A series of kernels that Debian maintains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Series {
    /// Linux 6.1, of Debian 12.
    #[value(name = "6.1")]
    Linux6_1,
    /// Linux 6.12, of Debian 13, which Debian 12 offers as well.
    #[value(name = "6.12")]
    Linux6_12,
}

impl Series {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Linux6_1, Self::Linux6_12];

    /// The package that depends on the newest kernel of the series. Packages with a number in their name go away with the
    /// next update, so they cannot be named here.
    fn meta_package(self) -> &'static str {
        match self {
            Self::Linux6_1 => "linux-image-cloud-amd64",
            Self::Linux6_12 => "linux-image-6.12-cloud-amd64",
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux6_1 => "6.1",
            Self::Linux6_12 => "6.12",
        })
    }
}

/// A kernel on this machine's disk.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Its series.
    pub(crate) series: Series,
    /// What `uname -r` says in it.
    pub(crate) release: String,
    /// The version of its package.
    pub(crate) version: String,
    /// Where the package is unpacked.
    directory: PathBuf,
}

impl Kernel {
    /// The newest kernel of a series, downloaded unless an earlier run did.
    ///
    /// # Errors
    /// When apt does not know or get the package.
    pub(crate) fn fetch(series: Series) -> Result<Self> {
        let package = Package::newest(series).or_else(|first| {
            refresh_lists().with_context(|| format!("{first:#}"))?;
            Package::newest(series)
        })?;
        let kernels = shell::target_directory()?.join("vm/kernels");
        let directory = kernels.join(format!("{}_{}", package.name, package.version));
        if !directory.exists() {
            eprintln!("vm: getting Linux {series} ({})", package.name);
            package.unpack_to(&directory)?;
        }
        Ok(Self {
            series,
            release: package.release()?.to_owned(),
            version: package.version,
            directory,
        })
    }

    /// The file that boots.
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The files of the named modules and of those that they need, in the order in which they load. What is built into
    /// the kernel is left out.
    ///
    /// # Errors
    /// When there is no such module.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let directory = self.directory.join("lib/modules").join(&self.release);
        let read =
            |name| fs::read_to_string(directory.join(name)).with_context(|| format!("cannot read the kernel's {name}"));
        let files = load_order(&read("modules.dep")?, &read("modules.builtin")?, names)
            .with_context(|| format!("Linux {}", self.release))?;
        Ok(files.into_iter().map(|file| directory.join(file)).collect())
    }
}

/// A kernel's package, as apt knows it.
#[derive(Debug)]
struct Package {
    name: String,
    version: String,
}

impl Package {
    fn newest(series: Series) -> Result<Self> {
        let meta = series.meta_package();
        let said = shell::output(shell::command("apt-cache").args(["depends", "--important", meta]))?;
        let name = dependency(&said, &format!("linux-image-{series}."))
            .with_context(|| format!("apt knows no kernel {series}: {meta} depends on none"))?
            .to_owned();
        let shown = shell::output(shell::command("apt-cache").args(["show", "--no-all-versions", &name]))?;
        let version = shown.lines().find_map(|line| line.strip_prefix("Version: "));
        let version = version
            .with_context(|| format!("apt does not say which version of {name} it has"))?
            .to_owned();
        Ok(Self { name, version })
    }

    fn release(&self) -> Result<&str> {
        let release = self.name.strip_prefix("linux-image-");
        release.with_context(|| format!("{} is no kernel", self.name))
    }

    /// Unpacks beside `directory` first, so that what is at `directory` is always whole.
    fn unpack_to(&self, directory: &Path) -> Result<()> {
        let partial = directory.with_extension(format!("partial-{}", process::id()));
        let unpacked = self.unpack(&partial).and_then(|()| {
            let moved = fs::rename(&partial, directory);
            // Another run may have been quicker.
            if directory.exists() {
                Ok(())
            } else {
                moved.with_context(|| format!("cannot make {}", directory.display()))
            }
        });
        if partial.exists() {
            let _left_behind = fs::remove_dir_all(&partial);
        }
        unpacked
    }

    fn unpack(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        self.download(directory).or_else(|first| {
            refresh_lists().with_context(|| format!("{first:#}"))?;
            self.download(directory)
        })?;
        let archive = files_below(directory)?
            .into_iter()
            .find(|file| has_extension(file, "deb"))
            .context("apt-get downloaded no package")?;
        shell::output(shell::command("dpkg-deb").arg("-x").args([&archive, directory]))?;
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))?;
        let compressed = files_below(&directory.join("lib/modules"))?;
        let compressed: Vec<_> = compressed
            .into_iter()
            .filter(|file| has_extension(file, "xz"))
            .collect();
        if !compressed.is_empty() {
            shell::output(shell::command("xz").args(["--decompress", "--"]).args(compressed))?;
        }
        shell::output(
            shell::command("depmod")
                .arg("--basedir")
                .arg(directory)
                .arg(self.release()?),
        )?;
        Ok(())
    }

    fn download(&self, directory: &Path) -> Result<()> {
        let mut apt = shell::command("apt-get");
        // As root, apt downloads as another user, who may not write here.
        apt.args(["download", "-o", "APT::Sandbox::User=root"])
            .arg(format!("{}={}", self.name, self.version))
            .current_dir(directory);
        shell::output(&mut apt).map(drop)
    }
}

/// Gets apt's package lists, which are missing on fresh machines and get stale on others.
fn refresh_lists() -> Result<()> {
    if !shell::is_root() {
        bail!("apt's package lists are missing or out of date; run as root: apt-get update");
    }
    shell::run(shell::command("apt-get").args(["update", "--quiet"]))
}

/// The first dependency in what `apt-cache depends` says whose name begins so.
fn dependency<'a>(said: &'a str, prefix: &str) -> Option<&'a str> {
    said.lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(prefix))
}

/// Paths, as `modules.dep` has them, of the named modules with what they need before them.
fn load_order(dependencies: &str, builtin: &str, names: &[&str]) -> Result<Vec<PathBuf>> {
    let builtin: HashSet<_> = builtin.lines().map(module_name).collect();
    let mut order = Vec::new();
    for &name in names {
        if builtin.contains(&module_name(name)) {
            continue;
        }
        let mut lines = dependencies.lines().filter_map(|line| line.split_once(':'));
        let (file, needed) = lines
            .find(|(file, _)| module_name(file) == module_name(name))
            .with_context(|| format!("this kernel has no module {name}"))?;
        // depmod lists what a module needs such that the last is to be loaded first.
        for file in needed.split_whitespace().rev().chain([file]) {
            if !order.iter().any(|known| known == Path::new(file)) {
                order.push(file.into());
            }
        }
    }
    Ok(order)
}

/// The name of the module in a file, as the kernel writes it: `kernel/net/x-y.ko` holds `x_y`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/net/llc/llc.ko:
kernel/net/802/stp.ko: kernel/net/llc/llc.ko
kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko
kernel/net/ipv6/netfilter/nf-x.ko: kernel/net/llc/llc.ko
";

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let order = load_order(DEPENDENCIES, "kernel/lib/crc.ko\n", &["bridge", "crc", "nf_x"]).unwrap();
        let names: Vec<_> = order
            .iter()
            .map(|path| module_name(&path.display().to_string()))
            .collect();
        assert_eq!(names, ["llc", "stp", "bridge", "nf_x"]);
    }

    #[test]
    fn an_unknown_module_is_an_error() {
        let error = load_order(DEPENDENCIES, "", &["veth"]).unwrap_err();
        assert!(error.to_string().contains("veth"), "{error}");
    }

    #[test]
    fn a_kernel_of_another_series_is_not_taken() {
        let said = "linux-image-cloud-amd64\n  Depends: linux-image-6.12.5-cloud-amd64\n";
        assert_eq!(dependency(said, "linux-image-6.1."), None);
        assert_eq!(
            dependency(said, "linux-image-6.12."),
            Some("linux-image-6.12.5-cloud-amd64")
        );
    }
}
