//! Where the programs of a control plane are: in the folder that `scripts/kube-tools.sh` prints.

use std::path::PathBuf;

/// The variable that names the folder.
pub const FOLDER: &str = "SWITCHYARD_KUBE_TOOLS";

/// The path of `etcd`, `kube-apiserver`, `kube-controller-manager`, `kubectl` or `helm`.
///
/// # Errors
/// Says how to get it when it is not there.
pub fn find(name: &str) -> anyhow::Result<PathBuf> {
    let remedy = format!("use `make test`, or export {FOLDER}=$(scripts/kube-tools.sh)");
    let Some(folder) = std::env::var_os(FOLDER) else {
        anyhow::bail!("{FOLDER} is not set, so {name} cannot be found: {remedy}");
    };
    let path = PathBuf::from(folder).join(name);
    anyhow::ensure!(path.is_file(), "{} is not there: {remedy}", path.display());
    Ok(path)
}
