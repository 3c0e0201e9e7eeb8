//! A layer of known bytes, as a directory tree and as an EROFS image, made of nothing but its number.
//!
//! Whoever serves it and whoever reads it agree on each byte without having talked. It holds no state and no content.

use std::collections::BTreeMap;

/// Bytes of a block of an image.
const BLOCK: u64 = 4096;
/// Bytes of an inode of an image.
const INODE: u64 = 64;
/// Where the inodes of an image begin.
const INODES_AT: u64 = 1152;

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A directory: names and nodes.
    Directory(BTreeMap<String, u32>),
    /// A file of this size.
    File(u64),
    /// A symbolic link.
    Link(String),
}

/// A node of the tree.
#[derive(Clone, Debug)]
pub struct Node {
    /// The directory that it is in.
    pub parent: u32,
    /// Its path, without a leading slash.
    pub path: String,
    /// What it is.
    pub kind: Kind,
}

/// A layer. Its nodes have the numbers from 1 on; 1 is the root.
#[derive(Clone, Debug)]
pub struct KnownLayer {
    number: u64,
    nodes: Vec<Node>,
    /// For each node, the block of the image where its data begin.
    blocks: Vec<u64>,
    metadata: Vec<u8>,
}

impl KnownLayer {
    /// The layer of this number: a large file, small ones in four directories, and links.
    pub fn new(number: u64) -> Self {
        let root = Node { parent: 1, path: String::new(), kind: Kind::Directory(BTreeMap::new()) };
        let mut layer = Self { number, nodes: vec![root], blocks: Vec::new(), metadata: Vec::new() };
        layer.add(1, "big", Kind::File((6 << 20) + 1234 + number));
        for d in 0..4u64 {
            let directory = layer.add(1, &format!("d{d}"), Kind::Directory(BTreeMap::new()));
            for f in 0..12 {
                layer.add(directory, &format!("f{f:02}"), Kind::File((number + d * 12 + f) * 7919 % 200_000));
            }
            layer.add(directory, "link", Kind::Link(format!("f{d:02}")));
        }
        layer.make_image();
        layer
    }

    fn add(&mut self, parent: u32, name: &str, kind: Kind) -> u32 {
        self.nodes.push(Node { parent, path: String::new(), kind });
        let index = self.nodes.len() as u32;
        let above = &mut self.nodes[parent as usize - 1];
        let path = if above.path.is_empty() { name.to_owned() } else { format!("{}/{name}", above.path) };
        let Kind::Directory(names) = &mut above.kind else { unreachable!("the parent is a directory") };
        names.insert(name.to_owned(), index);
        self.nodes[index as usize - 1].path = path;
        index
    }

    /// A node.
    pub fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.get((index as usize).checked_sub(1)?)
    }

    /// All nodes with their numbers.
    pub fn nodes(&self) -> impl Iterator<Item = (u32, &Node)> {
        (1..).zip(&self.nodes)
    }

    /// The files with their sizes.
    pub fn files(&self) -> Vec<(u32, &str, u64)> {
        let file = |(index, node)| match node {
            &Node { kind: Kind::File(size), ref path, .. } => Some((index, path.as_str(), size)),
            _ => None,
        };
        self.nodes().filter_map(file).collect()
    }

    /// Up to `length` bytes of a file, fewer at its end.
    pub fn content(&self, index: u32, offset: u64, length: usize) -> Vec<u8> {
        let Some(Node { kind: Kind::File(size), .. }) = self.node(index) else { return Vec::new() };
        let end = offset.saturating_add(length as u64).min(*size);
        let mut bytes = Vec::with_capacity(length + 8);
        let mut word = offset / 8;
        while word * 8 < end {
            let seed = self.number << 56 ^ u64::from(index) << 40 ^ word;
            bytes.extend(mix(seed).to_le_bytes());
            word += 1;
        }
        let skip = (offset % 8) as usize;
        let wanted = end.saturating_sub(offset) as usize;
        bytes.into_iter().skip(skip).take(wanted).collect()
    }

    /// Bytes of the image.
    pub fn image_size(&self) -> u64 {
        let ends = (0..self.nodes.len()).map(|node| self.blocks[node] + self.data_size(node).div_ceil(BLOCK));
        ends.max().unwrap_or(0) * BLOCK
    }

    /// Up to `length` bytes of the image, fewer at its end.
    pub fn image(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = offset.saturating_add(length as u64).min(self.image_size());
        let mut bytes = Vec::with_capacity(length);
        let mut at = offset;
        while at < end {
            let most = (end - at) as usize;
            if at < self.metadata.len() as u64 {
                let rest = &self.metadata[at as usize..];
                bytes.extend(&rest[..rest.len().min(most)]);
            } else {
                // Nodes without content have no blocks here, so the last one that begins before is the file.
                let file = (0..self.nodes.len()).rev().find(|node| {
                    matches!(self.nodes[*node].kind, Kind::File(size) if size > 0)
                        && self.blocks[*node] * BLOCK <= at
                });
                let file = file.expect("content begins with a file");
                let within = at - self.blocks[file] * BLOCK;
                let padded =
                    (self.data_size(file).next_multiple_of(BLOCK) - within).min(most as u64) as usize;
                let mut part = self.content(file as u32 + 1, within, padded);
                part.resize(padded, 0);
                bytes.extend(part);
            }
            at = offset + bytes.len() as u64;
        }
        bytes
    }

    fn data_size(&self, node: usize) -> u64 {
        match &self.nodes[node].kind {
            Kind::Directory(_) => self.directory_block(node as u32 + 1).len() as u64,
            Kind::File(size) => *size,
            Kind::Link(target) => target.len() as u64,
        }
    }

    /// Superblock, inodes, blocks of directories and links; content follows.
    fn make_image(&mut self) {
        let inodes_end = INODES_AT + INODE * self.nodes.len() as u64;
        let mut next = inodes_end.div_ceil(BLOCK);
        self.blocks = vec![0; self.nodes.len()];
        for content in [false, true] {
            for node in 0..self.nodes.len() {
                if matches!(self.nodes[node].kind, Kind::File(_)) == content {
                    self.blocks[node] = next;
                    next += self.data_size(node).div_ceil(BLOCK);
                }
            }
            if !content {
                self.metadata = vec![0; (next * BLOCK) as usize];
            }
        }
        let mut image = std::mem::take(&mut self.metadata);
        let mut put =
            |at: u64, bytes: &[u8]| image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        put(1024, &0xE0F5_E1E2_u32.to_le_bytes());
        put(1024 + 8, &2u32.to_le_bytes());
        put(1024 + 12, &[12]);
        put(1024 + 14, &(Self::number(1) as u16).to_le_bytes());
        put(1024 + 16, &(self.nodes.len() as u64).to_le_bytes());
        put(1024 + 36, &(next as u32).to_le_bytes());
        for (index, node) in self.nodes() {
            let (mode, links) = mode(&node.kind);
            let (at, place) = (INODES_AT + INODE * u64::from(index - 1), self.blocks[index as usize - 1]);
            put(at, &1u16.to_le_bytes());
            put(at + 4, &(mode as u16).to_le_bytes());
            put(at + 8, &self.data_size(index as usize - 1).to_le_bytes());
            put(at + 16, &(place as u32).to_le_bytes());
            put(at + 20, &index.to_le_bytes());
            put(at + 44, &links.to_le_bytes());
            match &node.kind {
                Kind::Directory(_) => put(place * BLOCK, &self.directory_block(index)),
                Kind::Link(target) => put(place * BLOCK, target.as_bytes()),
                Kind::File(_) => {}
            }
        }
        self.metadata = image;
    }

    /// Number of a node's inode in the image.
    const fn number(index: u32) -> u64 {
        (INODES_AT + INODE * (index as u64 - 1)) / 32
    }

    /// One block with all names of a directory.
    fn directory_block(&self, index: u32) -> Vec<u8> {
        let Some(Node { parent, kind: Kind::Directory(names), .. }) = self.node(index) else {
            return Vec::new();
        };
        let dots = [(".", index), ("..", *parent)];
        let all: Vec<_> = dots.into_iter().chain(names.iter().map(|(name, node)| (&**name, *node))).collect();
        let mut block = Vec::new();
        let mut at = all.len() * 12;
        for (name, node) in &all {
            let kind = match self.nodes[*node as usize - 1].kind {
                Kind::File(_) => 1,
                Kind::Directory(_) => 2,
                Kind::Link(_) => 7,
            };
            block.extend(Self::number(*node).to_le_bytes());
            block.extend((at as u16).to_le_bytes());
            block.extend([kind, 0]);
            at += name.len();
        }
        block.extend(all.iter().flat_map(|(name, _)| name.bytes()));
        block
    }
}

/// Mode and number of links.
pub const fn mode(kind: &Kind) -> (u32, u32) {
    match kind {
        Kind::Directory(_) => (0o040_755, 2),
        Kind::File(_) => (0o100_644, 1),
        Kind::Link(_) => (0o120_777, 1),
    }
}

/// Words that look like chance (the last step of splitmix64).
const fn mix(seed: u64) -> u64 {
    let seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}
