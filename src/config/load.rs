//! Everything that was named on the command line and in the settings, read and compiled.

mod documents;
mod files;
mod fragment;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compile::compile;
use super::diagnostic::{Code, Diagnostic, Diagnostics};
use super::digest::Digest;
use super::kinds::mesh_config::MeshConfig;
use super::names;
use super::resource::Resource;
use super::settings::{Overrides, Settings};
use crate::flow::Origin;
use crate::route::Snapshot;

use documents::Documents;

/// Where the configuration is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// `-c`; `None`: built-in defaults.
    pub settings: Option<PathBuf>,
    /// `-f [NAMESPACE=]PATH`, in order.
    pub resources: Vec<(Option<String>, PathBuf)>,
    /// What else the command line says.
    pub overrides: Overrides,
}

/// A whole configuration.
#[derive(Debug)]
pub struct Configuration {
    /// The settings, with the command line on top.
    pub settings: Settings,
    /// The rules.
    pub snapshot: Snapshot,
    /// What the rules say, to be compared with the next configuration.
    pub digest: Digest,
    /// Where each resource and each entry of `allow` stands, in the order of loading.
    pub places: Vec<Origin>,
    /// All that is wrong, sorted by file and line. If there are errors, the rest is not to be used.
    pub diagnostics: Diagnostics,
    /// Files and folders that were read or referred to: their change calls for a reload.
    pub inputs: Vec<PathBuf>,
}

impl Sources {
    /// Splits `NAMESPACE=PATH`; a path that holds `=` itself is written with `./` in front.
    pub fn split_file_argument(argument: &str) -> (Option<String>, PathBuf) {
        match argument.split_once('=') {
            Some((namespace, path)) if !namespace.contains(['/', '.']) && !path.is_empty() => {
                (Some(namespace.to_owned()), path.into())
            }
            _ => (None, argument.into()),
        }
    }
}

impl Configuration {
    /// Reads and compiles everything, reporting all errors and warnings of all files. `generation` counts the reloads.
    pub fn load(sources: &Sources, generation: u64) -> Self {
        let mut diagnostics = Diagnostics::default();
        let settings = load_settings(sources.settings.as_deref(), &mut diagnostics);
        let inputs = resource_inputs(sources, &settings, &mut diagnostics);
        let resources = load_resources(&inputs, &mut diagnostics);
        let root = &settings.mesh.root_namespace;
        let meshes =
            resources.iter().filter_map(|resource| MeshConfig::read(resource, root, &mut diagnostics)).collect();
        let settings =
            settings.with_mesh_configs(meshes, &mut diagnostics).finish(&sources.overrides, &mut diagnostics);
        let compiled = compile(&settings, &resources, generation, &mut diagnostics);
        diagnostics.sort();
        let named = inputs.into_iter().map(|(_, path)| path);
        let inputs = sources.settings.clone().into_iter().chain(named).chain(settings.watched()).chain(compiled.inputs);
        let mut inputs: Vec<_> = inputs.collect();
        inputs.sort();
        inputs.dedup();
        let digest = Digest::new(&settings, &resources);
        let allowed = settings.allow.iter().map(|entry| {
            let resource = format!("allow {}", entry.value).into();
            Origin { resource, ..settings.origin(entry.span) }
        });
        let places = resources.iter().map(|resource| resource.origin(resource.root.span)).chain(allowed).collect();
        Self { inputs, snapshot: compiled.snapshot, settings, digest, places, diagnostics }
    }

    /// True if there are no errors: warnings do not keep it from being used.
    pub fn is_usable(&self) -> bool {
        self.diagnostics.errors() == 0
    }
}

fn load_settings(path: Option<&Path>, diagnostics: &mut Diagnostics) -> Settings {
    let Some(path) = path else { return Settings::default() };
    match files::read(path) {
        Ok(source) => Settings::read(Arc::new(source), path.parent().unwrap_or(Path::new("")), diagnostics),
        Err(diagnostic) => {
            diagnostics.push(*diagnostic);
            Settings::default()
        }
    }
}

/// What the settings name first, then what the command line names; each with its default namespace.
fn resource_inputs(sources: &Sources, settings: &Settings, diagnostics: &mut Diagnostics) -> Vec<(Arc<str>, PathBuf)> {
    let mut inputs = Vec::new();
    for input in &settings.resources {
        inputs.push((input.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE).into(), input.path.clone()));
    }
    for (namespace, path) in &sources.resources {
        let namespace = namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        if let Err(problem) = names::namespace(namespace) {
            let flag = format!("-f {namespace}={}", path.display());
            diagnostics.push(Diagnostic::of_file(Code::BadMetadata, flag, format!("{namespace:?}: {problem}")));
        }
        inputs.push((namespace.into(), path.clone()));
    }
    inputs
}

const DEFAULT_NAMESPACE: &str = "default"; // as kubectl without -n

fn load_resources(inputs: &[(Arc<str>, PathBuf)], diagnostics: &mut Diagnostics) -> Vec<Resource> {
    let mut documents = Documents::default();
    for (namespace, input) in inputs {
        for path in files::list(input, diagnostics) {
            match files::read(&path) {
                Ok(source) if is_conf(&path) && Documents::is_of_others(&source) => {
                    let message = "a file of another program: passed over";
                    diagnostics.push(Diagnostic::of_file(Code::KindPassedOver, source.name().clone(), message));
                }
                Ok(source) => documents.read(&Arc::new(source), namespace, diagnostics),
                Err(diagnostic) => _ = diagnostics.push(*diagnostic),
            }
        }
    }
    documents.finish(diagnostics)
}

fn is_conf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "conf")
}

#[cfg(test)]
mod tests;
