use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::config::resource::Kind;

/// A folder of its own with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("inside the folder")).expect("created");
        fs::write(path, text).expect("written");
    }
    folder
}

fn entry(name: &str) -> String {
    format!("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec: {{}}\n")
}

/// Loads with namespace `ns`; labels in order of loading, and diagnostics with the folder's own path taken off.
fn load(folder: &tempfile::TempDir, path: &str) -> (Vec<Resource>, Vec<String>) {
    let mut diagnostics = Diagnostics::default();
    let resources = load_resources(&[("ns".into(), folder.path().join(path))], &mut diagnostics);
    diagnostics.sort();
    let root = folder.path().display().to_string();
    let shown = diagnostics.iter().map(|d| d.to_string().replace(&format!("{root}/"), "").replace(&root, "."));
    (resources, shown.collect())
}

fn labels(resources: &[Resource]) -> Vec<&str> {
    resources.iter().map(|resource| &*resource.label).collect()
}

/// One file `a.yaml`: what came of it.
fn one(text: &str) -> (Vec<Resource>, Vec<String>) {
    load(&folder(&[("a.yaml", text)]), "a.yaml")
}

#[test]
fn a_folder_is_read_in_the_order_of_its_paths() {
    let two = entry("b1") + "---\n" + &entry("b2");
    let folder = folder(&[
        ("b.yml", &two),
        (
            "a/z.json",
            r#"{"apiVersion":"networking.istio.io/v1","kind":"ServiceEntry","metadata":{"name":"az"},"spec":{}}"#,
        ),
        ("a.yaml", &entry("a")),
        ("..data/hidden.yaml", &entry("hidden")),
        (".hidden.yaml", "{"),
        ("README.md", "{"),
    ]);
    let (resources, problems) = load(&folder, "");
    assert_eq!(problems, [""; 0]);
    assert_eq!(
        labels(&resources),
        ["ServiceEntry ns/az", "ServiceEntry ns/a", "ServiceEntry ns/b1", "ServiceEntry ns/b2"]
    );
    assert_eq!(resources.iter().map(|resource| resource.order).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn links_are_followed_and_loops_refused() {
    let folder = folder(&[("..data/a.yaml", &entry("a")), ("sub/b.yaml", &entry("b"))]);
    let path = folder.path();
    symlink("..data/a.yaml", path.join("a.yaml")).expect("linked");
    symlink("..", path.join("sub/up")).expect("linked");
    symlink("self.yaml", path.join("self.yaml")).expect("linked");
    symlink("nowhere", path.join("dangling.yaml")).expect("linked");
    let (resources, problems) = load(&folder, "");
    assert_eq!(labels(&resources), ["ServiceEntry ns/a", "ServiceEntry ns/b"]);
    assert_eq!(
        problems,
        [
            "dangling.yaml: error[E001]: there is no such file or folder",
            "self.yaml: error[E003]: a loop of symbolic links",
            "sub/up: error[E003]: a link leads back to a folder that it lies in",
        ]
    );
}

#[test]
fn what_is_no_regular_file_is_refused_without_blocking() {
    let folder = folder(&[]);
    let fifo = folder.path().join("pipe.yaml");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).expect("a FIFO");
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket.yaml")).expect("a socket");
    let (_, problems) = load(&folder, "");
    assert_eq!(
        problems,
        [
            "pipe.yaml: error[E003]: this is a FIFO, not a regular file",
            "socket.yaml: error[E003]: this is a socket, not a regular file",
        ]
    );
    let unreadable = files::read(Path::new("/proc/self/mem")).expect_err("address 0 is not mapped");
    assert_eq!(unreadable.to_string(), "/proc/self/mem: error[E002]: cannot be read: Input/output error (os error 5)");
    let device = files::read(Path::new("/dev/zero")).expect_err("not a file");
    assert_eq!(device.to_string(), "/dev/zero: error[E003]: this is a device, not a regular file");
}

#[test]
fn files_are_bounded_and_have_to_be_utf8() {
    let folder = folder(&[]);
    let path = folder.path().join("a.yaml");
    let file = fs::File::create(&path).expect("created");
    file.set_len(64 * 1024 * 1024 + 1).expect("a sparse file");
    assert_eq!(load(&folder, "a.yaml").1, ["a.yaml: error[E004]: the file is larger than 64 MiB"]);
    fs::write(&path, b"a: 1\nb: \xff\n").expect("written");
    assert_eq!(load(&folder, "a.yaml").1, ["a.yaml: error[E005]: the text is not UTF-8 from byte 8 on (line 2)"]);
}

#[test]
fn folders_are_bounded_in_depth_on_both_sides() {
    let deep = |depth: usize| "d/".repeat(depth) + "a.yaml";
    let text = entry("a");
    let (resources, problems) = load(&folder(&[(&deep(15), &text)]), "");
    assert_eq!((resources.len(), problems.len()), (1, 0));
    let (resources, problems) = load(&folder(&[(&deep(16), &text), ("b.yaml", &text)]), "");
    assert_eq!(resources.len(), 1);
    assert!(problems[0].ends_with("error[E004]: folders are more than 16 deep"), "{problems:?}");
}

#[test]
fn missing_and_empty_inputs_are_told_apart() {
    let folder = folder(&[("empty/README.md", "")]);
    assert_eq!(load(&folder, "missing").1, ["missing: error[E001]: there is no such file or folder"]);
    assert_eq!(
        load(&folder, "empty/README.md/x").1,
        ["empty/README.md/x: error[E001]: there is no such file or folder"]
    );
    assert_eq!(load(&folder, "empty").1, ["empty: warning[W004]: the folder holds no *.yaml, *.yml or *.json file"]);
    let sources = Sources { settings: Some(folder.path().join("egret.yaml")), ..Sources::default() };
    let configuration = Configuration::load(&sources, 1);
    assert!(configuration.diagnostics.input_missing() && !configuration.is_usable());
}

#[test]
fn metadata_is_read_and_the_namespace_of_the_input_is_a_default_only() {
    let (resources, problems) = one(
        "apiVersion: networking.istio.io/v1beta1\nkind: ServiceEntry\nmetadata:\n  name: a.b\n  namespace: own\n  uid: x\n  creationTimestamp: 2024-01-02T03:04:05Z\n  labels: {app: x}\n  annotations: {egret.dev/source: '1'}\nspec: {hosts: [x]}\nstatus: {}\n",
    );
    assert_eq!(problems, [""; 0]);
    let Resource { kind, metadata, label, .. } = &resources[0];
    assert_eq!((*kind, &**label), (Kind::ServiceEntry, "ServiceEntry own/a.b"));
    assert_eq!(metadata.created.map(|created| created.as_second()), Some(1_704_164_645));
    assert_eq!(metadata.labels["app"], "x");
    let annotation = &metadata.annotations["egret.dev/source"];
    assert_eq!((&*annotation.value, annotation.span.line), ("1", 9));
    assert!(resources[0].spec().is_some());
    assert_eq!(resources[0].origin(annotation.span).resource, *label);
}

#[test]
fn lists_as_kubectl_prints_them_are_unfolded() {
    let text = format!(
        "apiVersion: v1\nkind: List\nmetadata: {{resourceVersion: ''}}\nitems:\n- {}- {}- {{apiVersion: v1, kind: List, items: []}}\n",
        entry("a").replace('\n', "\n  ").trim_end_matches(' '),
        entry("b").replace('\n', "\n  ").trim_end_matches(' ')
    );
    let (resources, problems) = one(&text);
    assert_eq!(problems, [""; 0]);
    assert_eq!(labels(&resources), ["ServiceEntry ns/a", "ServiceEntry ns/b"]);
    let (_, problems) = one(&text.replace("metadata: { name: b }", "metadata: { name: B }"));
    assert_eq!(
        problems,
        [
            "a.yaml:11:21: error[E022]: ServiceEntry ns/B: metadata.name: \"B\": a name is made of lower-case letters, digits, `-` and `.`, and begins and ends with a letter or digit"
        ]
    );
}

#[test]
fn what_is_no_resource_is_named() {
    let help = " (settings (egret.yaml) are named with -c, resources with -f)";
    for (text, expected) in [
        ("- a", "1:1: error[E020]: expected a resource (a map with apiVersion and kind), found a list".to_owned()),
        ("threads: 1", format!("1:1: error[E020]: this is no resource: neither apiVersion nor kind is there{help}")),
        ("kind: ServiceEntry", format!("1:1: error[E020]: this is no resource: apiVersion is missing{help}")),
        ("apiVersion: v1", format!("1:1: error[E020]: this is no resource: kind is missing{help}")),
        ("{apiVersion: 1, kind: X}", "1:14: error[E032]: apiVersion: expected text, found number 1 (put \"1\" in quotes)".to_owned()),
        (
            "{apiVersion: networking.istio.io/v2, kind: ServiceEntry, metadata: {name: a}}",
            "1:14: error[E021]: ServiceEntry ns/a: apiVersion: networking.istio.io/v2 has no ServiceEntry (write networking.istio.io/v1 or networking.istio.io/v1beta1 or networking.istio.io/v1alpha3)".to_owned(),
        ),
        (
            "{apiVersion: v1, kind: Secret}",
            "1:1: error[E022]: Secret ns/?: metadata is missing (a resource needs `metadata: { name: … }`)".to_owned(),
        ),
        ("{apiVersion: v1, kind: Secret, metadata: {}}", "1:42: error[E022]: Secret ns/?: metadata: the name is missing".to_owned()),
        (
            "{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: a.b}}",
            "1:63: error[E022]: Secret a.b/a: metadata.namespace: \"a.b\": a namespace is 1 to 63 lower-case letters, digits and `-`, and begins and ends with a letter or digit".to_owned(),
        ),
        (
            "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: a}, sepc: {}}",
            "1:79: error[E030]: ServiceEntry ns/a: sepc: no field of this name is known here (did you mean `spec`?)".to_owned(),
        ),
        (
            "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}",
            "1:29: warning[W002]: Deployment ns/a: kind: apps/v1 Deployment is not carried out, and passed over".to_owned(),
        ),
        (
            "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: a, namespace: b}}",
            "1:42: warning[W002]: PeerAuthentication b/a: kind: security.istio.io/v1 PeerAuthentication is not carried out: what it would restrict is not restricted".to_owned(),
        ),
        (
            "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}",
            "1:44: warning[W002]: Service ns/a: kind: serving.knative.dev/v1 Service is not carried out, and passed over".to_owned(),
        ),
        (
            "spec: {template: {}}",
            "1:1: warning[W002]: a patch of a workload is no resource, and passed over".to_owned(),
        ),
        (
            "[{op: add, path: /a}]",
            "1:1: warning[W002]: a JSON patch is no resource, and passed over".to_owned(),
        ),
    ] {
        assert_eq!(one(text).1, [format!("a.yaml:{expected}")], "{text}");
    }
}

#[test]
fn a_resource_without_a_name_is_judged_all_the_same() {
    let (_, problems) =
        one("apiVersion: v1\nkind: ServiceEntry\nmetadata: [a]\nsepc: {}\n---\nkind: Secret\napiVersion: v1\n");
    let codes: Vec<_> = problems.iter().map(|problem| &problem[..problem.find(']').expect("a code")]).collect();
    assert_eq!(
        codes,
        ["a.yaml:1:13: error[E021", "a.yaml:3:11: error[E032", "a.yaml:4:1: error[E030", "a.yaml:6:1: error[E022"]
    );
}

#[test]
fn the_later_of_two_resources_of_one_name_counts() {
    let folder = folder(&[("a.yaml", &(entry("a") + "---\n" + &entry("b"))), ("b.yaml", &entry("a"))]);
    let (resources, problems) = load(&folder, "");
    assert_eq!(labels(&resources), ["ServiceEntry ns/b", "ServiceEntry ns/a"]);
    assert_eq!(
        problems,
        ["b.yaml:1:1: warning[W003]: ServiceEntry ns/a: replaces the one of the same name at a.yaml:1:1"]
    );
}

#[test]
fn nothing_of_a_secret_is_shown_even_when_it_is_wrong() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: a, labels: {x: 12345}}\nstringDate: {password: hunter2}\n---\nkind: Secret\nstringData: {password: 'hunter2}\n";
    let folder = folder(&[("a.yaml", text)]);
    let mut diagnostics = Diagnostics::default();
    load_resources(&[("ns".into(), folder.path().join("a.yaml"))], &mut diagnostics);
    assert_eq!(diagnostics.errors(), 3);
    let shown = diagnostics.render(false) + &diagnostics.to_json();
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn the_whole_configuration_lists_what_to_watch() {
    let folder = folder(&[
        ("conf/egret.yaml", "resources: [rules, {path: more.yaml, namespace: other}]\n"),
        ("conf/rules/a.yaml", &entry("a")),
        ("conf/more.yaml", &entry("b")),
        ("c.yaml", &entry("c")),
    ]);
    let path = |name: &str| folder.path().join(name);
    let sources = Sources {
        settings: Some(path("conf/egret.yaml")),
        resources: vec![(Some("third".to_owned()), path("c.yaml"))],
        overrides: Overrides::default(),
    };
    let configuration = Configuration::load(&sources, 7);
    assert_eq!(
        configuration.inputs,
        [
            "/etc/resolv.conf".into(),
            path("c.yaml"),
            path("conf/egret.yaml"),
            path("conf/more.yaml"),
            path("conf/rules")
        ]
    );
    assert_eq!(configuration.settings.listeners.len(), 1);
}

#[test]
fn a_namespace_of_the_command_line_is_checked() {
    assert_eq!(Sources::split_file_argument("ns=a.yaml"), (Some("ns".to_owned()), "a.yaml".into()));
    assert_eq!(Sources::split_file_argument("a.yaml"), (None, "a.yaml".into()));
    assert_eq!(Sources::split_file_argument("./x=y.yaml"), (None, "./x=y.yaml".into()));
    let sources = Sources { resources: vec![(Some("NS".to_owned()), "/nonexistent".into())], ..Sources::default() };
    let configuration = Configuration::load(&sources, 1);
    let shown: Vec<_> = configuration.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(shown[0].split(": ").take(2).collect::<Vec<_>>(), ["-f NS=/nonexistent", "error[E022]"]);
}

#[test]
fn a_file_of_another_program_is_passed_over_and_resources_under_its_name_are_read() {
    let folder = folder(&[
        ("nginx.conf", "user www-data;\nevents { }\n"),
        ("rules.conf", &entry("a")),
        ("broken.conf", "a: [\n---\nb: c\n"),
    ]);
    let (resources, problems) = load(&folder, "nginx.conf");
    assert_eq!(
        (resources.len(), problems.join("\n").as_str()),
        (0, "nginx.conf: warning[W002]: a file of another program: passed over")
    );
    assert_eq!(labels(&load(&folder, "rules.conf").0), ["ServiceEntry ns/a"]);
    assert!(
        load(&folder, "broken.conf").1.iter().any(|problem| problem.contains("error[")),
        "one document of it is a map"
    );
}
