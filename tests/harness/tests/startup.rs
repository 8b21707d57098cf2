//! What a daemon or a client refuses at its start, and how it says so; starting and stopping nodes.

use harness::{Output, SOON, TestCluster, alone, daemon, eventually, hadal, run};
use std::process::Command;

#[track_caller]
fn refuses(output: &Output, texts: &[&str]) {
    output.fails(1, texts);
}

#[test]
fn daemons_refuse_what_others_use_and_what_makes_no_sense() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    let port_of = |id: &str| {
        let offset = ["jn1", "jn2", "jn3", "nn1", "dn1"]
            .iter()
            .position(|known| *known == id);
        cluster.ports().base() + u16::try_from(offset.unwrap()).unwrap()
    };
    let spare = cluster.ports().spare();
    for (role, id) in [
        ("namenode", "nn1"),
        ("journalnode", "jn1"),
        ("datanode", "dn1"),
    ] {
        let config = cluster.config(id);
        // On the same port.
        let address = format!("127.0.0.1:{}", port_of(id));
        cluster.write_local("same.toml", &config);
        refuses(
            &daemon(role, id, &cluster.local("same.toml")),
            &[
                "cannot listen on UDP",
                &address,
                "is another process using the port?",
            ],
        );
        // On a port of its own, in the same directory.
        let moved = config.replace(&address, &format!("127.0.0.1:{spare}"));
        cluster.write_local("second.toml", moved);
        refuses(
            &daemon(role, id, &cluster.local("second.toml")),
            &[
                &cluster.data(id).display().to_string(),
                "is in use by another process",
            ],
        );
    }
    let config = cluster.config("nn1");
    cluster.write_local(
        "key.toml",
        config.replace("stale_interval", "stale_intervall"),
    );
    refuses(
        &daemon("namenode", "nn1", &cluster.local("key.toml")),
        &[
            "unknown key `namenode.stale_intervall'",
            "did you mean `namenode.stale_interval'?",
        ],
    );
    cluster.write_local("size.toml", config.replace("\"128MiB\"", "\"12Q\""));
    refuses(
        &daemon("namenode", "nn1", &cluster.local("size.toml")),
        &["bad value for `namenode.block_size'", "\"12Q\""],
    );
    let missing = cluster.local("missing.toml");
    refuses(
        &daemon("namenode", "nn1", &missing),
        &[
            "cannot read configuration",
            "missing.toml",
            "No such file or directory",
        ],
    );
    // Not formatted.
    let (data, empty) = (cluster.data("nn1"), cluster.local("empty"));
    let address = format!("127.0.0.1:{}", port_of("nn1"));
    let config = config
        .replace(&*data.to_string_lossy(), &empty.to_string_lossy())
        .replace(&address, &format!("127.0.0.1:{spare}"));
    cluster.write_local("empty.toml", config);
    refuses(
        &daemon("namenode", "nn1", &cluster.local("empty.toml")),
        &[
            &empty.display().to_string(),
            "is not formatted",
            "hadal namenode -format",
        ],
    );
    // The cluster did not notice any of it.
    cluster.dfs(&["-mkdir", "/still"]).ok();
}

#[test]
fn a_running_or_formatted_namenode_is_not_formatted_again() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    cluster.dfs(&["-mkdir", "/kept"]).ok();
    let config = cluster.config_file("nn1");
    let format = || {
        let mut command = Command::new(hadal());
        command.args([
            "namenode",
            "-format",
            "-nonInteractive",
            "--id",
            "nn1",
            "--config",
        ]);
        run(command.arg(&config))
    };
    let data = cluster.data("nn1").display().to_string();
    refuses(&format(), &[&data, "is in use by another process"]);
    cluster.kill_node("nn1");
    refuses(&format(), &[&data]);
    cluster.start_node("nn1");
    assert_eq!(cluster.dfs(&["-ls", "-C", "/"]).ok().stdout, "/kept\n");
}

#[test]
fn clients_with_the_wrong_certificate_are_refused() {
    let _alone = alone();
    let cluster = TestCluster::start(1);
    let config = cluster.config("client");
    let tls = cluster.root().join("tls");
    // A certificate for the same name from another authority.
    let foreign = cluster.local("foreign");
    let user = config
        .lines()
        .find_map(|line| line.strip_prefix("superuser = \"")?.strip_suffix('"'))
        .expect("the superuser");
    let foreign_dir = foreign.to_str().unwrap();
    cluster.run(&["tls", "init-ca", foreign_dir]).ok();
    cluster
        .run(&[
            "tls",
            "issue",
            "--role",
            "admin",
            "--name",
            user,
            foreign_dir,
        ])
        .ok();
    let as_foreigner = config.replace(&*tls.to_string_lossy(), foreign_dir);
    cluster.write_local("foreign.toml", as_foreigner);
    // A DataNode's certificate where a user's is asked for.
    let as_datanode = config.replace(&format!("name = \"{user}\""), "name = \"dn1\"");
    cluster.write_local("datanode.toml", as_datanode);
    // All at once, as they ask again and again until their window is over.
    std::thread::scope(|scope| {
        for (file, text) in [
            ("foreign.toml", "foreign CA"),
            ("datanode.toml", "Forbidden"),
        ] {
            for verb in [&["-ls", "/"][..], &["-mkdir", "/x"]] {
                let cluster = &cluster;
                scope.spawn(move || {
                    let mut args = vec!["--config", file, "-D", "client.retry_window=8s", "dfs"];
                    args.extend(verb);
                    refuses(&cluster.run(&args), &[text, "nn1"]);
                });
            }
        }
    });
    assert_eq!(cluster.dfs(&["-ls", "/"]).ok().stdout, "");
}

#[test]
fn every_node_can_be_killed_and_started_and_down_leaves_nothing() {
    let _alone = alone();
    let cluster = TestCluster::start(2);
    cluster.write_local("hello", "hello\n");
    cluster.dfs(&["-put", "hello", "/hello"]).ok();
    for id in cluster.ids() {
        cluster.kill_node(&id);
        refuses(&cluster.dev(&["kill", &id]), &[&id, "is not running"]);
        cluster.start_node(&id);
        eventually("the file can be read", SOON, || {
            let output = cluster.dfs(&["-cat", "/hello"]);
            (output.stdout == "hello\n")
                .then_some(())
                .ok_or(output.stderr)
        });
    }
    refuses(
        &cluster.dev(&["kill", "dn9"]),
        &["no node `dn9'", "dn1, dn2"],
    );
    assert_eq!(cluster.processes().len(), cluster.ids().len());
    cluster.dev(&["down"]).ok();
    assert_eq!(cluster.processes(), [""; 0]);
    // And all is there when it is started again.
    cluster.up().ok();
    assert_eq!(cluster.dfs(&["-cat", "/hello"]).ok().stdout, "hello\n");
}
