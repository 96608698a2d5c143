//! Small helpers to read stanzas and to build answers.

use std::time::{SystemTime, UNIX_EPOCH};

use wacore_binary::builder::NodeBuilder;
use wacore_binary::{Jid, Node, NodeRef, SERVER_JID};

/// An attribute as text; empty if it isn't there.
pub(crate) fn attr(node: &NodeRef<'_>, name: &str) -> String {
    node.get_attr(name).map(|value| value.as_str().into_owned()).unwrap_or_default()
}

/// An attribute as an address.
pub(crate) fn jid(node: &NodeRef<'_>, name: &str) -> Option<Jid> {
    node.get_attr(name).and_then(|value| value.to_jid())
}

/// The content of the child `tag`, as bytes.
pub(crate) fn child_bytes(node: &NodeRef<'_>, tag: &str) -> Option<Vec<u8>> {
    content(node.get_optional_child(tag)?)
}

/// What a node holds, as bytes; the encoding may have packed them as text.
pub(crate) fn content(node: &NodeRef<'_>) -> Option<Vec<u8>> {
    node.content_bytes().map(<[u8]>::to_vec).or_else(|| node.content_as_string().map(|text| text.as_bytes().to_vec()))
}

/// A big-endian number of up to four bytes.
pub(crate) fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The answer to an `<iq>`.
pub(crate) fn result(id: &str, children: impl IntoIterator<Item = Node>) -> Node {
    let builder = NodeBuilder::new("iq").attr("from", SERVER_JID).attr("type", "result").attr("id", id);
    let mut children = children.into_iter().peekable();
    if children.peek().is_some() { builder.children(children).build() } else { builder.build() }
}

/// The refusal of an `<iq>`.
pub(crate) fn error(id: &str, code: u16, text: &str) -> Node {
    let error = NodeBuilder::new("error").attr("code", code).attr("text", text).build();
    NodeBuilder::new("iq").attr("from", SERVER_JID).attr("type", "error").attr("id", id).children([error]).build()
}

/// A child that holds bytes.
pub(crate) fn bytes(tag: &'static str, content: impl Into<Vec<u8>>) -> Node {
    NodeBuilder::new(tag).bytes(content).build()
}

/// Seconds since 1970.
pub(crate) fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The `lid` of a phone number: this server derives one from the other, so that nothing has to remember them.
pub(crate) fn lid_of(number: &str) -> String {
    format!("{LID_PREFIX}{number}")
}

/// The phone number an address stands for, whether it names it or its `lid`.
pub(crate) fn number_of(jid: &Jid) -> Option<String> {
    if jid.is_lid() {
        jid.user_base().strip_prefix(LID_PREFIX).map(str::to_owned)
    } else if jid.is_pn() {
        Some(jid.user_base().to_owned())
    } else {
        None
    }
}

const LID_PREFIX: &str = "77";

/// An id for a stanza of the server's own.
pub(crate) fn new_id(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{prefix}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
