//! What the offline viewers share: their files, and XML.

use crate::console::Console;
use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Where a viewer reads and writes.
#[derive(Args, Clone, Debug)]
pub(crate) struct ViewerFiles {
    /// File to read
    #[arg(
        short = 'i',
        long = "inputFile",
        alias = "input-file",
        value_name = "FILE"
    )]
    pub(crate) input: PathBuf,
    /// Where to write; standard output by default
    #[arg(
        short = 'o',
        long = "outputFile",
        alias = "output-file",
        value_name = "FILE"
    )]
    pub(crate) output: Option<PathBuf>,
}

impl ViewerFiles {
    /// Lets `write` write to where it should. What it wrote before an error stays; the error names the file that was read.
    pub(crate) fn show(
        &self,
        console: &Console,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<i32> {
        let outcome = match &self.output {
            Some(path) => {
                let file = File::create(path);
                let file = file.with_context(|| format!("cannot write {}", path.display()))?;
                let mut out = BufWriter::new(file);
                let outcome = write(&mut out);
                out.flush()?;
                outcome
            }
            None => {
                let outcome = write(&mut Results(console));
                console.flush();
                outcome
            }
        };
        outcome.with_context(|| self.input.display().to_string())?;
        Ok(0)
    }
}

/// Standard output.
struct Results<'a>(&'a Console);

impl Write for Results<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.bytes(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush();
        Ok(())
    }
}

/// A value as an element, or as several when it is a list; none for null.
pub(crate) fn xml_value(
    out: &mut dyn Write,
    indent: &str,
    name: &str,
    value: &Value,
) -> std::io::Result<()> {
    match value {
        Value::Null => Ok(()),
        Value::Array(values) => values
            .iter()
            .try_for_each(|value| xml_value(out, indent, name, value)),
        Value::Object(values) => {
            writeln!(out, "{indent}<{name}>")?;
            let deeper = format!("{indent}  ");
            for (name, value) in values {
                xml_value(out, &deeper, name, value)?;
            }
            writeln!(out, "{indent}</{name}>")
        }
        Value::String(text) => writeln!(out, "{indent}<{name}>{}</{name}>", escaped(text)),
        other => writeln!(out, "{indent}<{name}>{other}</{name}>"),
    }
}

/// Text as XML has it. Names may hold characters that XML has no way to write: those become U+FFFD.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\n' | '\r' | '\t' => out.push_str(&format!("&#{};", u32::from(c))),
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}
