//! `hadal oiv`: the offline image viewer, a NameNode's image file as XML, as a table, or as counts of files by size.
//!
//! The forms are those of HDFS's viewer; what Hadal has not (quotas, snapshots, policies) is left out of the XML, and stands in
//! the table as HDFS has it where it is not set.

use crate::admin;
use crate::console::Console;
use crate::humanize;
use crate::viewer::{ViewerFiles, escaped};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use hadal_namenode::{ImageContents, read_image};
use hadal_namesystem::{InodeView, View};
use hadal_shard::{Cores, ShardOptions, run_on_this_thread};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{Result as IoResult, Write};

/// Options of `oiv`.
#[derive(Args, Clone, Debug)]
pub(crate) struct OivArgs {
    #[command(flatten)]
    files: ViewerFiles,
    /// As what
    #[arg(short = 'p', long, value_enum, ignore_case = true, default_value_t = Processor::Xml)]
    processor: Processor,
    /// Between the columns of Delimited
    #[arg(long, default_value = "\t", hide_default_value = true)]
    delimiter: String,
    /// FileDistribution: files up to this many bytes are counted by size, longer ones together
    #[arg(long = "maxSize", alias = "max-size", value_name = "BYTES", default_value_t = 128 << 30)]
    max_size: u64,
    /// FileDistribution: bytes from one size to the next
    #[arg(long, value_name = "BYTES", default_value_t = 2 << 20)]
    step: u64,
    /// FileDistribution: sizes for people
    #[arg(long)]
    format: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Processor {
    /// One element per inode, then who is in which directory
    Xml,
    /// One line per inode
    #[value(name = "Delimited")]
    Delimited,
    /// How many files of which size
    #[value(name = "FileDistribution")]
    FileDistribution,
    #[value(name = "Web", hide = true)]
    Web,
    #[value(name = "ReverseXML", hide = true)]
    ReverseXml,
    #[value(name = "DetectCorruption", hide = true)]
    DetectCorruption,
    #[value(name = "Transformed", hide = true)]
    Transformed,
}

/// Runs the viewer. The whole image is verified before anything is written.
pub(crate) fn run(console: &Console, args: OivArgs) -> Result<i32> {
    let missing = match args.processor {
        Processor::Web => Some("Web"),
        Processor::ReverseXml => Some("ReverseXML"),
        Processor::DetectCorruption => Some("DetectCorruption"),
        Processor::Transformed => Some("Transformed"),
        Processor::Xml | Processor::Delimited | Processor::FileDistribution => None,
    };
    if let Some(name) = missing {
        return Ok(admin::missing(console, &format!("oiv -p {name}")));
    }
    if args.step == 0 {
        bail!("oiv: --step is 0: sizes are counted in steps of at least 1 byte");
    }
    let path = args.files.input.clone();
    let read = run_on_this_thread(ShardOptions::new("oiv"), |shard| async move {
        read_image(shard.disk(), &Cores, &path).await
    })?;
    let shown = || args.files.input.display().to_string();
    let image = read.with_context(shown)?;
    args.files.show(console, |out| {
        match args.processor {
            Processor::Delimited => table(out, &image.view, &args.delimiter)?,
            Processor::FileDistribution => distribution(out, &image.view, &args)?,
            _ => xml(out, &image)?,
        }
        Ok(())
    })
}

/// `<name>value</name>`.
fn element(name: &str, value: impl Display) -> String {
    format!("<{name}>{value}</{name}>")
}

fn xml(out: &mut dyn Write, image: &ImageContents) -> IoResult<()> {
    let (namespace, view) = (&image.namespace, &image.view);
    let ids = view.last_ids();
    writeln!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\" standalone=\"yes\"?>"
    )?;
    let version = element("layoutVersion", namespace.layout.0);
    writeln!(out, "<fsimage>{}", element("version", version))?;
    let name = [
        element("namespaceId", namespace.namespace_id),
        element("clusterId", escaped(&namespace.cluster_id.0)),
        element("blockPoolId", escaped(&namespace.block_pool_id.0)),
        element("genstampV2", ids.generation_stamp.0),
        element("lastAllocatedBlockId", ids.block.0),
        element("txid", view.txid()),
    ];
    writeln!(out, "{}", element("NameSection", name.concat()))?;
    let last = element("lastInodeId", ids.inode.0);
    let count = element("numInodes", view.inode_count());
    writeln!(out, "<INodeSection>{last}{count}")?;
    for inode in view.inodes() {
        writeln!(out, "{}", element("inode", xml_inode(&inode)))?;
    }
    writeln!(out, "</INodeSection>\n<INodeDirectorySection>")?;
    for directory in view.inodes().filter(|inode| inode.file.is_none()) {
        let mut entries = element("parent", directory.id.0);
        for child in view.children(directory.id) {
            entries += &element("child", child.0);
        }
        writeln!(out, "{}", element("directory", entries))?;
    }
    writeln!(
        out,
        "</INodeDirectorySection>\n<FileUnderConstructionSection>"
    )?;
    let is_open = |inode: &InodeView| inode.file.as_ref().is_some_and(|it| it.holder.is_some());
    for open in view.inodes().filter(is_open) {
        let path = element("path", escaped(&view.path_of(open.id)));
        let entry = element("id", open.id.0) + &path;
        writeln!(out, "{}", element("inode", entry))?;
    }
    writeln!(out, "</FileUnderConstructionSection>\n</fsimage>")
}

fn xml_inode(inode: &InodeView) -> String {
    let kind = match inode.file {
        Some(_) => "FILE",
        None => "DIRECTORY",
    };
    let mut text = element("id", inode.id.0);
    text += &element("type", kind);
    text += &element("name", escaped(inode.name));
    if let Some(file) = &inode.file {
        text += &element("replication", file.replication);
    }
    text += &element("mtime", inode.modified_ms);
    if let Some(file) = &inode.file {
        text += &element("atime", inode.accessed_ms);
        text += &element("preferredBlockSize", file.block_size);
    }
    let (owner, group) = (escaped(inode.owner), escaped(inode.group));
    let permission = format!("{owner}:{group}:{:04o}", inode.permission);
    text += &element("permission", permission);
    let Some(file) = &inode.file else {
        return text;
    };
    let mut blocks = String::new();
    for block in &file.blocks {
        let fields = [
            element("id", block.id.0),
            element("genstamp", block.generation_stamp.0),
            element("numBytes", block.length),
        ];
        blocks += &element("block", fields.concat());
    }
    text += &element("blocks", blocks);
    if let Some(holder) = file.holder {
        let client = element("clientName", format!("{:032x}", holder.0));
        text += &element("file-under-construction", client);
    }
    text
}

/// HDFS's columns.
const COLUMNS: [&str; 12] = [
    "Path",
    "Replication",
    "ModificationTime",
    "AccessTime",
    "PreferredBlockSize",
    "BlocksCount",
    "FileSize",
    "NSQUOTA",
    "DSQUOTA",
    "Permission",
    "UserName",
    "GroupName",
];

fn table(out: &mut dyn Write, view: &View, delimiter: &str) -> IoResult<()> {
    writeln!(out, "{}", COLUMNS.join(delimiter))?;
    for inode in view.inodes() {
        let mut row = vec![view.path_of(inode.id)];
        let modified = humanize::listing_time(inode.modified_ms);
        let kind = match &inode.file {
            None => {
                row.extend(["0".into(), modified, humanize::listing_time(0)]);
                row.extend(["0", "0", "0", "-1", "-1"].map(String::from));
                'd'
            }
            Some(file) => {
                let accessed = humanize::listing_time(inode.accessed_ms);
                row.extend([file.replication.to_string(), modified, accessed]);
                let blocks = file.blocks.len() as u64;
                let numbers = [file.block_size, blocks, file.length(), 0, 0];
                row.extend(numbers.map(|number| number.to_string()));
                '-'
            }
        };
        let permission = format!("{kind}{}", humanize::permission(inode.permission));
        row.extend([permission, inode.owner.into(), inode.group.into()]);
        writeln!(out, "{}", row.join(delimiter))?;
    }
    Ok(())
}

fn distribution(out: &mut dyn Write, view: &View, args: &OivArgs) -> IoResult<()> {
    // The upper end of a step, and files up to it; behind the last one everything.
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut files, mut directories, mut blocks, mut space, mut longest) =
        (0u64, 0u64, 0u64, 0u64, 0);
    for inode in view.inodes() {
        let Some(file) = &inode.file else {
            directories += 1;
            continue;
        };
        let length = file.length();
        let steps = length.min(args.max_size).div_ceil(args.step);
        *counts.entry(steps.saturating_mul(args.step)).or_default() += 1;
        files += 1;
        blocks += file.blocks.len() as u64;
        space = space.saturating_add(length.saturating_mul(u64::from(file.replication)));
        longest = length.max(longest);
    }
    writeln!(out, "Size\tNumFiles")?;
    for (upto, count) in counts {
        let from = upto.saturating_sub(args.step);
        let size = match args.format {
            true => format!(
                "({}, {}]",
                humanize::binary(from, "B", 2),
                humanize::binary(upto, "B", 2)
            ),
            false => upto.to_string(),
        };
        writeln!(out, "{size}\t{count}")?;
    }
    writeln!(out, "totalFiles = {files}")?;
    writeln!(out, "totalDirectories = {directories}")?;
    writeln!(out, "totalBlocks = {blocks}")?;
    writeln!(out, "totalSpace = {space}")?;
    writeln!(out, "maxFileSize = {longest}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadal_namesystem::{Namesystem, NamesystemConfig};
    use hadal_proto::edit::{Edit, EditOp};
    use hadal_types::{
        Block, BlockId, BlockPoolId, CURRENT_LAYOUT, CallId, ClientId, ClusterId, GenerationStamp,
        InodeId, NamespaceInfo, Tick, TxId,
    };

    /// `/d&` with a closed file of 30 bytes, and an open one in the root.
    fn image() -> ImageContents {
        let config = NamesystemConfig {
            superuser: "hdfs".into(),
            supergroup: "supergroup".into(),
            ..NamesystemConfig::default()
        };
        let mut namesystem = Namesystem::format(config, Default::default(), 1);
        let root = InodeId::ROOT.0;
        let create = |parent: u64, inode: u64, name: &str| EditOp::Create {
            parent: InodeId(parent),
            inode: InodeId(inode),
            name: name.into(),
            permission: 0o640,
            owner: "alice".into(),
            group: "staff".into(),
            replication: 3,
            block_size: 1024,
            holder: ClientId(0xab),
            replaced: None,
        };
        let first = (BlockId((1 << 30) + 1), GenerationStamp(1001));
        let ops = [
            EditOp::Mkdir {
                parent: InodeId(root),
                inode: InodeId(root + 1),
                name: "d&".into(),
                permission: 0o755,
                owner: "alice".into(),
                group: "staff".into(),
            },
            create(root + 1, root + 2, "f"),
            EditOp::AddBlock {
                inode: InodeId(root + 2),
                block: first.0,
                generation_stamp: first.1,
                previous: None,
            },
            EditOp::Close {
                inode: InodeId(root + 2),
                last: Some(Block {
                    id: first.0,
                    generation_stamp: first.1,
                    length: 30,
                }),
            },
            create(root, root + 3, "open"),
        ];
        for (txid, op) in (1..).zip(ops) {
            let edit = Edit {
                time_ms: 86_400_000,
                client: ClientId(0),
                call: CallId(0),
                op,
            };
            namesystem.replay(Tick::from_ms(1), TxId(txid), &edit);
        }
        ImageContents {
            namespace: NamespaceInfo {
                layout: CURRENT_LAYOUT,
                namespace_id: 7,
                cluster_id: ClusterId("CID-x".into()),
                block_pool_id: BlockPoolId("BP-x".into()),
                created_ms: 1,
            },
            view: namesystem.view(),
        }
    }

    fn text(write: impl FnOnce(&mut dyn Write) -> IoResult<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn everything_in_an_image_is_in_its_xml() {
        let text = text(|out| xml(out, &image()));
        let root = InodeId::ROOT.0;
        let (d, f, open) = (root + 1, root + 2, root + 3);
        for part in [
            "<clusterId>CID-x</clusterId>".to_owned(),
            "<genstampV2>1001</genstampV2><lastAllocatedBlockId>1073741825</lastAllocatedBlockId><txid>5</txid>"
                .into(),
            format!("<INodeSection><lastInodeId>{open}</lastInodeId><numInodes>4</numInodes>\n"),
            format!(
                "<inode><id>{d}</id><type>DIRECTORY</type><name>d&amp;</name><mtime>86400000</mtime><permission>alice:staff:0755</permission></inode>\n"
            ),
            format!(
                "<inode><id>{f}</id><type>FILE</type><name>f</name><replication>3</replication><mtime>86400000</mtime><atime>86400000</atime><preferredBlockSize>1024</preferredBlockSize><permission>alice:staff:0640</permission><blocks><block><id>1073741825</id><genstamp>1001</genstamp><numBytes>30</numBytes></block></blocks></inode>\n"
            ),
            "<file-under-construction><clientName>000000000000000000000000000000ab</clientName></file-under-construction></inode>\n"
                .into(),
            format!("<directory><parent>{root}</parent><child>{d}</child><child>{open}</child></directory>\n"),
            format!("<directory><parent>{d}</parent><child>{f}</child></directory>\n"),
            format!("<inode><id>{open}</id><path>/open</path></inode>\n"),
        ] {
            assert!(text.contains(&part), "{part} is not in: {text}");
        }
        assert!(text.ends_with("</fsimage>\n"), "{text}");
    }

    #[test]
    fn tables_and_distributions_have_hdfs_s_form() {
        let image = image();
        let table = text(|out| table(out, &image.view, "|"));
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 5, "{table}");
        assert_eq!(lines[0], COLUMNS.join("|"));
        let file = lines.iter().find(|line| line.starts_with("/d&/f|"));
        let cells: Vec<&str> = file.expect("the file").split('|').collect();
        assert_eq!(cells[1], "3");
        let behind = ["1024", "1", "30", "0", "0", "-rw-r-----", "alice", "staff"];
        assert_eq!(cells[4..], behind);
        let directory = lines.iter().find(|line| line.starts_with("/d&|"));
        assert!(
            directory
                .expect("the directory")
                .ends_with("|0|0|0|-1|-1|drwxr-xr-x|alice|staff")
        );
        let args = OivArgs {
            files: ViewerFiles {
                input: "f".into(),
                output: None,
            },
            processor: Processor::FileDistribution,
            delimiter: String::new(),
            max_size: 100,
            step: 20,
            format: false,
        };
        let counts = text(|out| distribution(out, &image.view, &args));
        let expected = "Size\tNumFiles\n0\t1\n40\t1\ntotalFiles = 2\ntotalDirectories = 2\ntotalBlocks = 1\n\
                        totalSpace = 90\nmaxFileSize = 30\n";
        assert_eq!(counts, expected);
    }
}
