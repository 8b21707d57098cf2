//! `hadal oev`: the offline edits viewer, one segment file of a JournalNode or shared directory as XML, JSON or counts.
//!
//! The frame is HDFS's (`EDITS`, `RECORD`, `OPCODE`, `DATA`) and so are the opcodes' names where HDFS has the operation; the
//! fields are those of Hadal's edits, which name inodes where HDFS's name paths.

use crate::console::Console;
use crate::viewer::{ViewerFiles, xml_value};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use hadal_proto::decode;
use hadal_proto::edit::{Edit, EditOp};
use hadal_types::{Block, BlockId, ClientId, GenerationStamp, InodeId};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use store_journal::{Record, SegmentView};

/// Options of `oev`.
#[derive(Args, Clone, Debug)]
pub(crate) struct OevArgs {
    #[command(flatten)]
    files: ViewerFiles,
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
    let input = &args.files.input;
    let shown = || input.display().to_string();
    let bytes = std::fs::read(input).with_context(|| format!("cannot read {}", shown()))?;
    let view = SegmentView::new(Bytes::from(bytes)).with_context(shown)?;
    args.files
        .show(console, |out| write(out, view, args.processor))
}

fn write(out: &mut dyn Write, view: SegmentView, processor: Processor) -> Result<()> {
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

fn xml(out: &mut dyn Write, opcode: &str, fields: &Fields) -> std::io::Result<()> {
    writeln!(out, "  <RECORD>\n    <OPCODE>{opcode}</OPCODE>\n    <DATA>")?;
    for (name, value) in fields {
        xml_value(out, "      ", name, value)?;
    }
    writeln!(out, "    </DATA>\n  </RECORD>")
}

/// A field as a viewer shows it.
trait Shown {
    fn shown(&self) -> Value;
}

macro_rules! shown_as_numbers {
    ($($ty:ty: $number:expr),* $(,)?) => {
        $(impl Shown for $ty {
            fn shown(&self) -> Value {
                let number: fn(&$ty) -> u64 = $number;
                json!(number(self))
            }
        })*
    };
}

shown_as_numbers! {
    u16: |number| u64::from(*number),
    u64: |number| *number,
    InodeId: |inode| inode.0,
    BlockId: |block| block.0,
    GenerationStamp: |stamp| stamp.0,
}

impl Shown for String {
    fn shown(&self) -> Value {
        json!(self)
    }
}

impl Shown for ClientId {
    fn shown(&self) -> Value {
        json!(format!("{:032x}", self.0))
    }
}

impl Shown for Block {
    fn shown(&self) -> Value {
        json!({
            "BLOCK_ID": self.id.0,
            "NUM_BYTES": self.length,
            "GENSTAMP": self.generation_stamp.0,
        })
    }
}

impl<T: Shown> Shown for Option<T> {
    fn shown(&self) -> Value {
        self.as_ref().map_or(Value::Null, Shown::shown)
    }
}

impl<T: Shown> Shown for Vec<T> {
    fn shown(&self) -> Value {
        self.iter().map(Shown::shown).collect()
    }
}

/// One row per operation: what it is, its opcode, and the names of its fields.
macro_rules! opcode_and_fields {
    ($op:expr; $($variant:ident $opcode:literal { $($field:ident $name:literal),* })*) => {
        match $op {
            $(EditOp::$variant { $($field),* } => ($opcode, vec![$(($name, $field.shown())),*]),)*
        }
    };
}

/// An opcode and the values behind it.
fn fields(record: &Record, edit: &Edit) -> (&'static str, Fields) {
    let mut fields: Fields = vec![
        ("TXID", json!(record.txid.0)),
        ("EPOCH", json!(record.epoch.0)),
        ("TIMESTAMP", json!(edit.time_ms)),
    ];
    if edit.client.0 != 0 {
        fields.push(("RPC_CLIENTID", edit.client.shown()));
        fields.push(("RPC_CALLID", json!(edit.call.0)));
    }
    let (opcode, own): (&'static str, Fields) = opcode_and_fields! { &edit.op;
        StartSegment "OP_START_LOG_SEGMENT" {}
        EndSegment "OP_END_LOG_SEGMENT" {}
        Mkdir "OP_MKDIR" {
            parent "PARENTID", inode "INODEID", name "NAME", permission "MODE", owner "USERNAME", group "GROUPNAME"
        }
        Create "OP_ADD" {
            parent "PARENTID", inode "INODEID", name "NAME", permission "MODE", owner "USERNAME", group "GROUPNAME",
            replication "REPLICATION", block_size "BLOCKSIZE", holder "CLIENT_NAME", replaced "REPLACED"
        }
        AddBlock "OP_ADD_BLOCK" { inode "INODEID", block "BLOCK_ID", generation_stamp "GENSTAMP", previous "PREVIOUS" }
        AbandonBlock "OP_ABANDON_BLOCK" { inode "INODEID", block "BLOCK_ID" }
        Close "OP_CLOSE" { inode "INODEID", last "BLOCK" }
        UpdateLength "OP_UPDATE_LENGTH" { inode "INODEID", block "BLOCK" }
        AllocateStamp "OP_SET_GENSTAMP_V2" { generation_stamp "GENSTAMPV2" }
        UpdatePipeline "OP_UPDATE_BLOCKS" { inode "INODEID", block "BLOCK" }
        Rename "OP_RENAME" { inode "INODEID", to_parent "DST_PARENTID", to_name "DST_NAME", replaced "REPLACED" }
        Delete "OP_DELETE" { inode "INODEID" }
        SetPermission "OP_SET_PERMISSIONS" { inode "INODEID", permission "MODE" }
        SetOwner "OP_SET_OWNER" { inode "INODEID", owner "USERNAME", group "GROUPNAME" }
        SetTimes "OP_TIMES" { inode "INODEID", modified_ms "MTIME", accessed_ms "ATIME" }
        SetReplication "OP_SET_REPLICATION" { inode "INODEID", replication "REPLICATION" }
        ReassignLease "OP_REASSIGN_LEASE" { inode "INODEID", holder "NEWHOLDER" }
        Append "OP_APPEND" { inode "INODEID", holder "CLIENT_NAME", block "BLOCK" }
        Truncate "OP_TRUNCATE" { inode "INODEID", length "NEWLENGTH", recovering "BLOCK" }
        Concat "OP_CONCAT_DELETE" { target "INODEID", sources "SOURCE" }
        Outcome "OP_OUTCOME" {}
    };
    fields.extend(own);
    (opcode, fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_types::{CallId, Epoch, TxId};

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
