//! Writes a file and reads it back: `cargo run -p hadal-client --example hello -- NAME ADDRESS TLS_DIR USER`,
//! for a development cluster `... hello -- nn1 127.0.0.1:18003 hadal-dev/tls $USER`.

use hadal_client::{ClientOptions, CreateOptions, Identity, connect};
use std::path::Path;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, address, tls, user] = arguments.as_slice() else {
        return Err("usage: hello NAME ADDRESS TLS_DIR USER".into());
    };
    let file = |name: String| Path::new(tls).join(name);
    let (cert, key) = (format!("{user}.pem"), format!("{user}-key.pem"));
    let identity = Identity::load(&file("ca.pem".into()), &file(cert), &file(key))?;
    let dfs = connect(
        ClientOptions::new([(name.as_str(), address.parse()?)]),
        &identity,
    )?;
    let options = CreateOptions {
        overwrite: true,
        ..CreateOptions::default()
    };
    let mut out = dfs.create("/hello", &options).await?;
    out.write_all(b"hello, world\n").await?;
    out.close().await?;
    let content = dfs.open("/hello").await?.read_to_end().await?;
    print!("{}", String::from_utf8_lossy(&content));
    Ok(())
}
