//! `hadal oev`: the offline edits viewer, one segment file of a JournalNode or shared directory as XML, JSON or counts.
//!
//! The frame is HDFS's (`EDITS`, `RECORD`, `OPCODE`, `DATA`) and so are the opcodes' names where HDFS has the operation; the
//! fields are those of Hadal's edits, which name inodes where HDFS's name paths.

use crate::console::Console;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use hadal_proto::decode;
use hadal_proto::edit::{Edit, EditOp};
use hadal_types::{Block, InodeId};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use store_journal::{Record, SegmentView};

/// Options of `oev`.
#[derive(Args, Clone, Debug)]
pub(crate) struct OevArgs {
    /// Segment file to read
    #[arg(
        short = 'i',
        long = "inputFile",
        alias = "input-file",
        value_name = "FILE"
    )]
    input: PathBuf,
    /// Where to write; standard output by default
    #[arg(
        short = 'o',
        long = "outputFile",
        alias = "output-file",
        value_name = "FILE"
    )]
    output: Option<PathBuf>,
    /// As what
    #[arg(short = 'p', long, value_enum, ignore_case = true, default_value_t = Processor::Xml)]
    processor: Processor,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Processor {
    /// One RECORD element per edit
    Xml,
    /// One object per line
    Json,
    /// How many edits of each kind
    Stats,
}

/// One edit's values by their names, in order.
type Fields = Vec<(&'static str, Value)>;

/// Runs the viewer. What stands before the first damage is written, then the damage is an error.
pub(crate) fn run(console: &Console, args: &OevArgs) -> Result<i32> {
    let shown = args.input.display().to_string();
    let bytes = std::fs::read(&args.input).with_context(|| format!("cannot read {shown}"))?;
    let view = SegmentView::new(Bytes::from(bytes)).with_context(|| shown.clone())?;
    match &args.output {
        Some(path) => {
            let file = File::create(path);
            let file = file.with_context(|| format!("cannot write {}", path.display()))?;
            let mut out = BufWriter::new(file);
            let outcome = write(&mut out, view, args.processor);
            out.flush()?;
            outcome.with_context(|| shown.clone())?;
        }
        None => {
            let mut text = Vec::new();
            let outcome = write(&mut text, view, args.processor);
            console.line(String::from_utf8_lossy(&text).trim_end());
            console.flush();
            outcome.with_context(|| shown.clone())?;
        }
    }
    Ok(0)
}

fn write(out: &mut impl Write, view: SegmentView, processor: Processor) -> Result<()> {
    let layout = view.header().layout;
    if processor == Processor::Xml {
        writeln!(
            out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>"
        )?;
        writeln!(out, "<EDITS>\n  <EDITS_VERSION>{layout}</EDITS_VERSION>")?;
    }
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut damage = None;
    for record in view {
        let (record, edit) = match record.map(|record| (decode(record.payload.clone()), record)) {
            Ok((Ok(edit), record)) => (record, edit),
            Ok((Err(error), record)) => {
                damage = Some(format!("edit {} cannot be decoded: {error}", record.txid));
                break;
            }
            Err(error) => {
                damage = Some(error.to_string());
                break;
            }
        };
        let (opcode, fields) = fields(&record, &edit);
        match processor {
            Processor::Xml => xml(out, opcode, &fields)?,
            Processor::Json => {
                let data: Map<String, Value> = fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect();
                writeln!(out, "{}", json!({ "OPCODE": opcode, "DATA": data }))?;
            }
            Processor::Stats => *counts.entry(opcode).or_default() += 1,
        }
    }
    match processor {
        Processor::Xml => writeln!(out, "</EDITS>")?,
        Processor::Json => {}
        Processor::Stats => {
            for (opcode, count) in counts {
                writeln!(out, "    {opcode:<30}: {count}")?;
            }
        }
    }
    match damage {
        Some(damage) => bail!("{damage}; what stands before it was written"),
        None => Ok(()),
    }
}

fn xml(out: &mut impl Write, opcode: &str, fields: &Fields) -> std::io::Result<()> {
    writeln!(out, "  <RECORD>\n    <OPCODE>{opcode}</OPCODE>\n    <DATA>")?;
    for (name, value) in fields {
        xml_value(out, "      ", name, value)?;
    }
    writeln!(out, "    </DATA>\n  </RECORD>")
}

fn xml_value(out: &mut impl Write, indent: &str, name: &str, value: &Value) -> std::io::Result<()> {
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
fn escaped(text: &str) -> String {
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

fn block(block: &Block) -> Value {
    json!({
        "BLOCK_ID": block.id.0,
        "NUM_BYTES": block.length,
        "GENSTAMP": block.generation_stamp.0,
    })
}

fn optional_block(of: Option<&Block>) -> Value {
    of.map_or(Value::Null, block)
}

fn optional_inode(of: Option<&InodeId>) -> Value {
    of.map_or(Value::Null, |inode| json!(inode.0))
}

/// An opcode and the values behind it.
fn fields(record: &Record, edit: &Edit) -> (&'static str, Fields) {
    let mut fields: Fields = vec![
        ("TXID", json!(record.txid.0)),
        ("EPOCH", json!(record.epoch.0)),
        ("TIMESTAMP", json!(edit.time_ms)),
    ];
    if edit.client.0 != 0 {
        fields.push(("RPC_CLIENTID", json!(format!("{:032x}", edit.client.0))));
        fields.push(("RPC_CALLID", json!(edit.call.0)));
    }
    let (opcode, own): (&'static str, Fields) = match &edit.op {
        EditOp::StartSegment => ("OP_START_LOG_SEGMENT", vec![]),
        EditOp::EndSegment => ("OP_END_LOG_SEGMENT", vec![]),
        EditOp::Mkdir {
            parent,
            inode,
            name,
            permission,
            owner,
            group,
        } => (
            "OP_MKDIR",
            vec![
                ("PARENTID", json!(parent.0)),
                ("INODEID", json!(inode.0)),
                ("NAME", json!(name)),
                ("MODE", json!(permission)),
                ("USERNAME", json!(owner)),
                ("GROUPNAME", json!(group)),
            ],
        ),
        EditOp::Create {
            parent,
            inode,
            name,
            permission,
            owner,
            group,
            replication,
            block_size,
            holder,
            replaced,
        } => (
            "OP_ADD",
            vec![
                ("PARENTID", json!(parent.0)),
                ("INODEID", json!(inode.0)),
                ("NAME", json!(name)),
                ("MODE", json!(permission)),
                ("USERNAME", json!(owner)),
                ("GROUPNAME", json!(group)),
                ("REPLICATION", json!(replication)),
                ("BLOCKSIZE", json!(block_size)),
                ("CLIENT_NAME", json!(format!("{:032x}", holder.0))),
                ("REPLACED", optional_inode(replaced.as_ref())),
            ],
        ),
        EditOp::AddBlock {
            inode,
            block,
            generation_stamp,
            previous,
        } => (
            "OP_ADD_BLOCK",
            vec![
                ("INODEID", json!(inode.0)),
                ("BLOCK_ID", json!(block.0)),
                ("GENSTAMP", json!(generation_stamp.0)),
                ("PREVIOUS", optional_block(previous.as_ref())),
            ],
        ),
        EditOp::AbandonBlock { inode, block } => (
            "OP_ABANDON_BLOCK",
            vec![("INODEID", json!(inode.0)), ("BLOCK_ID", json!(block.0))],
        ),
        EditOp::Close { inode, last } => (
            "OP_CLOSE",
            vec![
                ("INODEID", json!(inode.0)),
                ("BLOCK", optional_block(last.as_ref())),
            ],
        ),
        EditOp::UpdateLength { inode, block: of } => (
            "OP_UPDATE_LENGTH",
            vec![("INODEID", json!(inode.0)), ("BLOCK", block(of))],
        ),
        EditOp::AllocateStamp { generation_stamp } => (
            "OP_SET_GENSTAMP_V2",
            vec![("GENSTAMPV2", json!(generation_stamp.0))],
        ),
        EditOp::UpdatePipeline { inode, block: of } => (
            "OP_UPDATE_BLOCKS",
            vec![("INODEID", json!(inode.0)), ("BLOCK", block(of))],
        ),
        EditOp::Rename {
            inode,
            to_parent,
            to_name,
            replaced,
        } => (
            "OP_RENAME",
            vec![
                ("INODEID", json!(inode.0)),
                ("DST_PARENTID", json!(to_parent.0)),
                ("DST_NAME", json!(to_name)),
                ("REPLACED", optional_inode(replaced.as_ref())),
            ],
        ),
        EditOp::Delete { inode } => ("OP_DELETE", vec![("INODEID", json!(inode.0))]),
        EditOp::SetPermission { inode, permission } => (
            "OP_SET_PERMISSIONS",
            vec![("INODEID", json!(inode.0)), ("MODE", json!(permission))],
        ),
        EditOp::SetOwner {
            inode,
            owner,
            group,
        } => (
            "OP_SET_OWNER",
            vec![
                ("INODEID", json!(inode.0)),
                ("USERNAME", json!(owner)),
                ("GROUPNAME", json!(group)),
            ],
        ),
        EditOp::SetTimes {
            inode,
            modified_ms,
            accessed_ms,
        } => (
            "OP_TIMES",
            vec![
                ("INODEID", json!(inode.0)),
                ("MTIME", json!(modified_ms)),
                ("ATIME", json!(accessed_ms)),
            ],
        ),
        EditOp::SetReplication { inode, replication } => (
            "OP_SET_REPLICATION",
            vec![
                ("INODEID", json!(inode.0)),
                ("REPLICATION", json!(replication)),
            ],
        ),
        EditOp::ReassignLease { inode, holder } => (
            "OP_REASSIGN_LEASE",
            vec![
                ("INODEID", json!(inode.0)),
                ("NEWHOLDER", json!(format!("{:032x}", holder.0))),
            ],
        ),
        EditOp::Append {
            inode,
            holder,
            block: of,
        } => (
            "OP_APPEND",
            vec![
                ("INODEID", json!(inode.0)),
                ("CLIENT_NAME", json!(format!("{:032x}", holder.0))),
                ("BLOCK", optional_block(of.as_ref())),
            ],
        ),
        EditOp::Truncate {
            inode,
            length,
            recovering,
        } => (
            "OP_TRUNCATE",
            vec![
                ("INODEID", json!(inode.0)),
                ("NEWLENGTH", json!(length)),
                ("BLOCK", optional_block(recovering.as_ref())),
            ],
        ),
        EditOp::Concat { target, sources } => (
            "OP_CONCAT_DELETE",
            vec![
                ("INODEID", json!(target.0)),
                (
                    "SOURCE",
                    sources.iter().map(|source| json!(source.0)).collect(),
                ),
            ],
        ),
        EditOp::Outcome => ("OP_OUTCOME", vec![]),
    };
    fields.extend(own);
    (opcode, fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::{BlockId, CallId, ClientId, Epoch, GenerationStamp, TxId};

    fn shown(op: EditOp) -> String {
        let record = Record {
            epoch: Epoch(3),
            txid: TxId(9),
            payload: Bytes::new(),
        };
        let edit = Edit {
            time_ms: 5,
            client: ClientId(0xab),
            call: CallId(4),
            op,
        };
        let (opcode, fields) = fields(&record, &edit);
        let mut out = Vec::new();
        xml(&mut out, opcode, &fields).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_edit_is_a_record_with_its_data() {
        let text = shown(EditOp::Close {
            inode: InodeId(7),
            last: Some(Block {
                id: BlockId(1),
                generation_stamp: GenerationStamp(2),
                length: 30,
            }),
        });
        let expected = "  <RECORD>\n    <OPCODE>OP_CLOSE</OPCODE>\n    <DATA>\n      <TXID>9</TXID>\n      <EPOCH>3</EPOCH>\n      \
                        <TIMESTAMP>5</TIMESTAMP>\n      <RPC_CLIENTID>000000000000000000000000000000ab</RPC_CLIENTID>\n      \
                        <RPC_CALLID>4</RPC_CALLID>\n      <INODEID>7</INODEID>\n      <BLOCK>\n        <BLOCK_ID>1</BLOCK_ID>\n        \
                        <GENSTAMP>2</GENSTAMP>\n        <NUM_BYTES>30</NUM_BYTES>\n      </BLOCK>\n    </DATA>\n  </RECORD>\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn names_are_escaped_and_what_is_absent_is_left_out() {
        let text = shown(EditOp::Rename {
            inode: InodeId(7),
            to_parent: InodeId(1),
            to_name: "a<b>&\u{1}".into(),
            replaced: None,
        });
        assert!(
            text.contains("<DST_NAME>a&lt;b&gt;&amp;\u{fffd}</DST_NAME>"),
            "{text}"
        );
        assert!(!text.contains("REPLACED"), "{text}");
        let text = shown(EditOp::Concat {
            target: InodeId(7),
            sources: vec![InodeId(8), InodeId(9)],
        });
        assert_eq!(text.matches("<SOURCE>").count(), 2, "{text}");
    }
}
