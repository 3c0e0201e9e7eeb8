//! `soci record --report`: the page beside the trace of a real recording. Needs root and FUSE.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use harness::daemon::program;
use harness::layout;
use serde_json::json;

#[test]
fn a_recording_leaves_a_page_that_knows_the_sizes_of_layers() {
    let dir = tempfile::tempdir().unwrap();
    let layer = dir.path().join("layer");
    layout::compile_workload(&layer.join("bin/do"));
    fs::set_permissions(layer.join("bin/do"), fs::Permissions::from_mode(0o755)).unwrap();
    let process = json!({ "Entrypoint": ["/bin/do"], "Cmd": ["say", "<b>hello</b>"] });
    layout::write(&dir.path().join("image"), &[layer], &process);
    let soci = |words: &[&str]| {
        let output = Command::new(program("soci"))
            .current_dir(dir.path())
            .args(words)
            .stdin(Stdio::null())
            .output()
            .expect("the program can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("output is text")
    };
    soci(&["record", "--image", "oci:image", "--name", "t", "--state", "state", "--report"]);
    let page = fs::read_to_string(dir.path().join("t.html")).unwrap();
    for text in ["bin/do", "of the image", "Of content", "&lt;b&gt;hello&lt;/b&gt;", "exit code 0"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(soci(&["report", "t.trace"]).contains("bin/do"));
}
