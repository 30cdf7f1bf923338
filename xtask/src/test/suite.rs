//! The test executables of this workspace, as cargo builds and reports them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::shell;

/// One test executable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    /// `PACKAGE` for unit tests of a library, `PACKAGE::TARGET` for others.
    pub(crate) name: String,
    /// Whether it is a mistake when it holds no test.
    pub(crate) must_have_tests: bool,
    /// The file.
    pub(crate) executable: PathBuf,
    package_directory: PathBuf,
}

impl Suite {
    /// The command that runs it, where cargo would run it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command
            .current_dir(&self.package_directory)
            .env("CARGO_MANIFEST_DIR", &self.package_directory);
        command
    }
}

/// Builds the tests of `packages`, or of one `target` among them, and returns them in that order.
///
/// # Errors
/// When the build fails, or there is no such target.
pub(crate) fn build(packages: &[&str], target: Option<&str>) -> Result<Vec<Suite>> {
    let mut cargo = shell::cargo()?;
    cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    if let Some(target) = target {
        cargo.args(["--test", target]);
    }
    eprintln!("$ {}", shell::line(&cargo));
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut suites: Vec<Suite> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(suite)
        .collect();
    let position = |suite: &Suite| packages.iter().position(|package| suite.name.starts_with(package));
    suites.sort_by_cached_key(|suite| (position(suite), suite.name.clone()));
    Ok(suites)
}

/// The suite that a line of cargo's JSON tells of, if it tells of one.
fn suite(line: &str) -> Option<Suite> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message.pointer("/profile/test")?.as_bool()?;
    let executable = message.get("executable")?.as_str().filter(|_| is_test)?;
    let manifest = Path::new(message.get("manifest_path")?.as_str()?);
    let directory = manifest.parent()?;
    let package = package_name(message.get("package_id")?.as_str()?)?;
    let target = message.pointer("/target/name")?.as_str()?;
    let kind = message.pointer("/target/kind/0")?.as_str()?;
    // Of lb-tests, the library is a tool box; the binaries are thin shells over the libraries.
    let must_have_tests = kind == "test" || (kind == "lib" && package != super::KERNEL_PACKAGE);
    Some(Suite {
        name: if kind == "lib" {
            package.to_owned()
        } else {
            format!("{package}::{target}")
        },
        must_have_tests,
        executable: executable.into(),
        package_directory: directory.into(),
    })
}

/// The name in `path+file:///…/DIRECTORY#NAME@VERSION`, or `…/NAME#VERSION` where directory and package agree.
fn package_name(id: &str) -> Option<&str> {
    let (path, fragment) = id.rsplit_once('#')?;
    match fragment.split_once('@') {
        Some((name, _)) => Some(name),
        None => path.rsplit('/').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named_in_its_id_or_by_its_directory() {
        assert_eq!(package_name("path+file:///src/tests#lb-tests@0.1.0"), Some("lb-tests"));
        assert_eq!(package_name("path+file:///src/lb-common#0.1.0"), Some("lb-common"));
        assert_eq!(package_name("nonsense"), None);
    }

    #[test]
    fn only_test_executables_are_suites() {
        let line = |test: bool, kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"path+file:///src/tests#lb-tests@0.1.0",
                "manifest_path":"/src/tests/Cargo.toml","target":{{"kind":["{kind}"],"name":"netns"}},
                "profile":{{"test":{test}}},"executable":"/target/netns-1"}}"#
            )
        };
        assert_eq!(suite(&line(false, "test")), None);
        let found = suite(&line(true, "test"));
        assert_eq!(found.as_ref().map(|suite| suite.name.as_str()), Some("lb-tests::netns"));
        assert!(found.is_some_and(|suite| suite.must_have_tests));
        assert!(suite(&line(true, "lib")).is_some_and(|suite| !suite.must_have_tests));
        assert_eq!(suite(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
