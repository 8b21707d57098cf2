//! The public futures of the library are `Send` on tokio, so that applications can spawn them.

use hadal_client::{CreateOptions, Dfs};

fn assert_send<T: Send>(_: &T) {}

#[allow(dead_code, reason = "compiled, never called: the bounds are the test")]
fn public_futures(dfs: &Dfs) {
    assert_send(dfs);
    assert_send(&dfs.mkdirs("/a", 0o755, true));
    assert_send(&dfs.list("/a"));
    assert_send(&dfs.open("/a"));
    assert_send(&dfs.create("/a", &CreateOptions::default()));
    assert_send(&dfs.file_checksum("/a"));
    assert_send(&async {
        let mut file = dfs.create("/a", &CreateOptions::default()).await?;
        file.write_all(b"bytes").await?;
        file.hsync().await?;
        file.close().await?;
        let mut file = dfs.open("/a").await?;
        file.read_to_end().await
    });
}

#[test]
fn public_futures_are_send() {
    let check: fn(&Dfs) = public_futures;
    assert!(std::mem::size_of_val(&check) > 0);
}
