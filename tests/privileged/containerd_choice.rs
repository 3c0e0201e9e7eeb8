//! Which pack a container gets, in a real containerd: by a label of its start, by a rule, by a program. Needs root, containerd,
//! docker-registry and runc.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use harness::containerd::Containerd;
use harness::daemon::Daemon;
use harness::patience::eventually;
use tokio::runtime::Runtime;

use super::containerd_companions::{BUILD, place};

const WEB: [&str; 5] = ["/do", "read", "/data", "100000", "300000"];
const JOB: [&str; 5] = ["/do", "read", "/data", "1200000", "500000"];
const WORKLOAD: &str = "containerd.io/snapshot/remote/soci.pack.workload";
/// A label that tells two kinds of containers apart. containerd passes on only labels with this prefix.
const TIER: &str = "containerd.io/snapshot/tier";

#[test]
fn each_start_asks_for_two_spans_beside_its_pack_at_most() {
    let place = place();
    let image = place.tagged("v1");
    let (web, job) = (place.record("web", &WEB), place.record("job", &JOB));
    place.run(&[&["create"], &BUILD[..], &["--pack-name", "web", "--trace", &web, &image]].concat());
    place.run(&["pack", "create", "--name", "job", "--trace", &job, &image]);
    place.push("v1");

    let tools = tempfile::tempdir().unwrap();
    let chooser = tools.path().join("chooser");
    let script = "#!/bin/sh\nread asked\ncase $asked in *batch*) echo '{\"workload\":\"job\"}';; *) echo '{\"workload\":\"web\"}';; esac\n";
    fs::write(&chooser, script).unwrap();
    fs::set_permissions(&chooser, fs::Permissions::from_mode(0o755)).unwrap();

    let v1 = "[pull_modes.soci_v1]\nenable = true\n[background_fetch]\ndisable = true\n";
    let by_rule = format!(
        "{v1}[pack]\nworkload = \"web\"\n[[pack.rule]]\nworkload = \"job\"\nimage = \"*/work:*\"\nlabels = {{ \"{TIER}\" = \"batch*\" }}\n"
    );
    let by_program =
        format!("{v1}[pack]\nchooser = \"{}\"\nchooser_timeout_msec = 20000\n", chooser.display());
    let by_label = format!("{v1}[pack]\nworkload = \"web\"\n");
    for (config, label, values, by) in [
        (by_label, WORKLOAD, ["web", "job"], "label"),
        (by_rule, TIER, ["front", "batch-7"], "rule 1"),
        (by_program, TIER, ["front", "batch"], "chooser"),
    ] {
        let node = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(node.path(), &config);
        let containerd = Containerd::start(node.path(), &daemon);
        Runtime::new().unwrap().block_on(containerd.cri_pull(&image)).unwrap();
        assert_eq!(daemon.metric("soci_layers_total{way=\"lazy\"}"), 1, "{}", daemon.log());
        eventually("the pack of the pull is here", || daemon.metric("soci_packs_total") == 1);
        for (container, workload, value) in [("web", WEB, values[0]), ("job", JOB, values[1])] {
            let before = daemon.metric("soci_demand_spans_total");
            let given = format!("{label}={value}");
            let run =
                ["run", "--rm", "--snapshotter", "soci", "--snapshotter-label", &given, &image, container];
            containerd.ctr_ok(&[&run[..], &workload].concat());
            let spans = daemon.metric("soci_demand_spans_total") - before;
            println!("{by}, {container}: {spans} spans beside the pack");
            assert!(spans <= 2, "{by}, {container}: {spans} spans\n{}", daemon.log());
            let told = &daemon.status()["starts"][0];
            assert_eq!(told["packs"][0]["workload"], container, "{told:#}");
            assert!(told["container"].as_str().is_some_and(|key| key.ends_with(container)), "{told:#}");
            if container == "job" {
                assert_eq!(told["packs"][0]["chosen_by"], by, "{told:#}");
            }
        }
        eventually("both packs are here", || daemon.metric("soci_packs_total") == 2);
        for name in containerd.ctr_ok(&["images", "ls", "-q"]).lines() {
            containerd.ctr_ok(&["images", "rm", "--sync", name]);
        }
    }
}
