//! Prints the custom resource definitions, or writes each into a file of a folder.

use std::path::PathBuf;

use anyhow::{Context, ensure};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    ensure!(arguments.len() <= 1, "usage: switchyard-crds [FOLDER]; without a folder everything is printed");
    for definition in switchyard_crd::definitions() {
        let yaml = definition.yaml()?;
        match arguments.first() {
            None => print!("---\n{yaml}"),
            Some(folder) => {
                let path = PathBuf::from(folder).join(definition.file);
                std::fs::write(&path, yaml).with_context(|| format!("{} cannot be written", path.display()))?;
            }
        }
    }
    Ok(())
}
