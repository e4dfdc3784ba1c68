//! The floors of the house (`src/lib.rs`): a module imports only from lower ones, and the data plane never imports `config`.

use std::fs;
use std::path::{Path, PathBuf};

const FLOORS: [&[&str]; 8] = [
    &["flow"],
    &["stream", "http1", "tls", "account", "drain"],
    &["route", "relay"],
    &["dial", "config"],
    &["tunnel"],
    &["accept", "admin"],
    &["app"],
    &["cli"],
];
const BESIDE: [(&str, &str); 4] = [
    ("stream", "http1"),  // the two bodies of a POST are a stream
    ("tls", "stream"),    // a handshake takes a stream and gives one back
    ("drain", "account"), // the end begins with the live tunnels that carry nothing
    ("relay", "route"),   // the first bytes of a tunnel are held against what was asked
];
const CONTROL: [&str; 3] = ["config", "app", "cli"]; // all others are the data plane

#[test]
fn modules_import_only_from_lower_floors() {
    let wrong: Vec<String> = imports()
        .into_iter()
        .filter(|import| {
            let (from, to) = (import.from.as_str(), import.to.as_str());
            from != to && !BESIDE.contains(&(from, to)) && floor(from) <= floor(to)
        })
        .map(|import| format!("{}:{}: {} imports {}", import.file.display(), import.line, import.from, import.to))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_data_plane_never_imports_config() {
    let wrong: Vec<String> = imports()
        .into_iter()
        .filter(|import| import.to == "config" && !CONTROL.contains(&import.from.as_str()))
        .map(|import| format!("{}:{}", import.file.display(), import.line))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn grouped_and_nested_paths_are_seen() {
    let text = "use crate::{account::{self, live}, flow::Flow};\nfn f() { crate::dial::g() } // crate::cli\n";
    let found: Vec<(usize, String)> = paths(text);
    assert_eq!(found, [(1, "account".to_owned()), (1, "flow".to_owned()), (2, "dial".to_owned())]);
}

/// One `crate::` path: `from` is the module that holds it, `to` the one it names.
struct Import {
    file: PathBuf,
    line: usize,
    from: String,
    to: String,
}

fn floor(module: &str) -> usize {
    let found = FLOORS.iter().position(|floor| floor.contains(&module));
    found.unwrap_or_else(|| panic!("module {module} stands on no floor: add it to FLOORS here and to src/lib.rs"))
}

fn imports() -> Vec<Import> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut imports = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).expect("found under src");
        let first = inside.iter().next().expect("a file has a name").to_string_lossy();
        let from = first.trim_end_matches(".rs").to_owned();
        if matches!(from.as_str(), "lib" | "main") {
            continue;
        }
        floor(&from);
        let text = fs::read_to_string(&file).expect("sources are readable");
        imports.extend(paths(&text).into_iter().map(|(line, to)| Import {
            file: inside.to_owned(),
            line,
            from: from.clone(),
            to,
        }));
    }
    assert!(imports.len() > 20, "only {} imports found: does this test still read the sources?", imports.len());
    imports
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Line and first segment of every `crate::…` and of every member of `crate::{…}`, comments left out.
fn paths(text: &str) -> Vec<(usize, String)> {
    let code: String = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect();
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + prefix.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push((line, identifier(rest)));
            continue;
        };
        let mut depth = 0;
        let mut member = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => found.push((line, identifier(&std::mem::take(&mut member)))),
                c if depth == 0 => member.push(c),
                _ => {}
            }
        }
        found.push((line, identifier(&member)));
    }
    found.retain(|(_, name)| !name.is_empty());
    found
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}
