//! What is shipped around the binary: units, rotation, the image's steps, dashboard and alerts.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::peer::{command, command_at, packaged, run};
use crate::support::{Egret, Folder, client};

fn conf(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conf").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(conf(name)).unwrap()
}

/// Names of ours in a text, labels and functions apart.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("egret_") || word.starts_with("istio_")).map(ToOwned::to_owned).collect()
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
    let egret = Egret::start();
    let exposition = String::from_utf8(client::get_from(egret.admin(), "/metrics").body).unwrap();
    let known: BTreeSet<String> = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .flat_map(|(name, kind)| match kind {
            "counter" => vec![format!("{name}_total")],
            "histogram" => ["_bucket", "_count", "_sum"].map(|end| format!("{name}{end}")).to_vec(),
            "info" => vec![format!("{name}_info")],
            _ => vec![name.to_owned()],
        })
        .collect();
    for file in ["monitoring/egret-dashboard.json", "monitoring/egret-alerts.yaml"] {
        let asked = metrics_in(&read(file));
        assert!(asked.len() > 5, "{file}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?} are none of {known:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("monitoring/egret-dashboard.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().iter().all(|panel| panel["targets"][0]["expr"].is_string()));
}

#[test]
fn units_are_what_systemd_takes_and_confine_the_service() {
    let folder = Folder::new();
    let service = read("systemd/egret.service").replace("/usr/bin/egret", "/bin/true");
    let service = folder.write("egret.service", &service.replace("man:egret(1) man:egret-run(1)", "man:true(1)"));
    let socket = folder.write("egret.socket", &read("systemd/egret.socket"));
    let ran = run(command("systemd-analyze").args(["verify", "--man=no"]).args([&service, &socket]));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    // 0 is nothing to be exposed to, 10 everything; what is left is the network, which is what the service is for.
    let mut security = command("systemd-analyze");
    let ran = run(security.args(["security", "--offline=true", "--threshold=20"]).arg(&service));
    assert_eq!(ran.code, Some(0), "{}", ran.stdout);
}

#[test]
fn the_package_s_settings_and_rotation_are_read_without_complaint() {
    for settings in ["package/egret.yaml", "container.yaml"] {
        let path = conf(settings);
        let output = crate::support::egret(&["check".as_ref(), "-c".as_ref(), path.as_os_str()]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{settings}: {said}");
        // The unit makes the folder of the log, which is not there before it runs.
        let others = said.lines().filter(|line| line.starts_with("warning[") && !line.contains("/var/log/egret"));
        assert_eq!(others.count(), 0, "{settings}: {said}");
    }
    let folder = Folder::new();
    let rotation = folder.write("egret", &read("package/egret.logrotate"));
    std::fs::set_permissions(&rotation, std::fs::Permissions::from_mode(0o644)).unwrap();
    let state = folder.path().join("state");
    let ran = run(command("logrotate").arg("--debug").arg("--state").arg(&state).arg(&rotation));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.stderr.contains("error"), "{ran:?}");
}

#[test]
fn the_steps_of_the_image_make_its_files() {
    packaged("/etc/ssl/certs/ca-certificates.crt");
    let folder = Folder::new();
    let mut image = command_at(&conf("package/image.sh"));
    run(image.arg(folder.path()).arg(env!("CARGO_BIN_EXE_egret"))).succeeded();
    let root = folder.path().join("image");
    let mode = |name: &str| std::fs::metadata(root.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("egret"), mode("etc/egret/egret.yaml")), (0o755, 0o644));
    assert!(std::fs::read_to_string(root.join("etc/passwd")).unwrap().contains(":65532:65532:"));
    let roots = std::fs::read_to_string(root.join("etc/ssl/certs/ca-certificates.crt")).unwrap();
    assert!(roots.contains("BEGIN CERTIFICATE"));
}
