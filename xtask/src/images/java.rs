//! `java`: a JVM with Tomcat and its example pages, READY when a JSP page was compiled and answered.

use super::recipe::{Layer, Recipe, Step, app, apt_install};

/// Few files, large ones, read at scattered places (class data, jars).
pub(crate) fn java() -> Recipe {
    let examples = "mkdir -p /var/lib/tomcat10/webapps /var/log/tomcat10\n\
        cp -r /usr/share/tomcat10-examples/examples /var/lib/tomcat10/webapps/\n\
        rm -rf /var/lib/tomcat10/webapps/ROOT/META-INF";
    let mut app = app([("app/java.sh", 0o755, include_str!("../../images/app/java.sh"))]);
    app.steps.push(Step::Chroot(examples.to_owned()));
    Recipe {
        name: "java",
        parent: Some("base"),
        layers: vec![
            Layer {
                title: "openjdk-17-jre-headless",
                steps: vec![
                    Step::Chroot("mkdir -p /usr/share/man/man1".to_owned()),
                    apt_install("openjdk-17-jre-headless"),
                ],
            },
            Layer { title: "tomcat10", steps: vec![apt_install("tomcat10 tomcat10-examples")] },
            app,
        ],
        cmd: &["/bin/bash", "/app/java.sh"],
        env: &[
            "JAVA_HOME=/usr/lib/jvm/java-17-openjdk-amd64",
            "CATALINA_HOME=/usr/share/tomcat10",
            "CATALINA_BASE=/var/lib/tomcat10",
        ],
        workdir: "/app",
    }
}
