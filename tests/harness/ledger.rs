//! What the simulated WhatsApp saw, whatever became of the processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sanasr_shared::time::Time;
use serde::Deserialize;

/// One arrival of a message at the simulated WhatsApp.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Arrival {
    pub(crate) whatsapp_id: String,
    pub(crate) session_id: String,
    pub(crate) to: String,
    pub(crate) text: Option<String>,
    #[serde(default)]
    pub(crate) media: Option<SeenFile>,
    pub(crate) at: Time,
}

/// A file that came with a message.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SeenFile {
    pub(crate) mime_type: String,
    pub(crate) filename: Option<String>,
    pub(crate) size: u64,
    pub(crate) sha256: String,
}

/// The file that the simulator appends to.
#[derive(Debug, Clone)]
pub(crate) struct Ledger(PathBuf);

/// What stood in the ledger when it was read, in the order of arrival.
#[derive(Debug)]
pub(crate) struct Arrivals(pub(crate) Vec<Arrival>);

impl Ledger {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What WhatsApp has seen so far. A line that is being written is left out.
    pub(crate) fn read(&self) -> Arrivals {
        let text = match std::fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => panic!("{}: {error}", self.0.display()),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("ledger line {line}: {e}"));
        Arrivals(whole.lines().map(read).collect())
    }
}

impl Arrivals {
    /// The messages that recipients see: one for each WhatsApp id, where it came first.
    pub(crate) fn shown(&self) -> Vec<&Arrival> {
        let mut seen = BTreeSet::new();
        self.0.iter().filter(|a| seen.insert((&a.session_id, &a.whatsapp_id))).collect()
    }

    /// The texts that each recipient of each session sees, in order.
    pub(crate) fn texts(&self) -> BTreeMap<(&str, &str), Vec<&str>> {
        let mut texts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for arrival in self.shown() {
            let text = arrival.text.as_deref().unwrap_or("");
            texts.entry((arrival.session_id.as_str(), arrival.to.as_str())).or_default().push(text);
        }
        texts
    }

    /// The WhatsApp ids that arrived more than once.
    pub(crate) fn repeated(&self) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        self.0.iter().map(|a| a.whatsapp_id.as_str()).filter(|id| !seen.insert(*id)).collect()
    }

    /// What arrived under a WhatsApp id.
    pub(crate) fn of(&self, whatsapp_id: &str) -> Vec<&Arrival> {
        self.0.iter().filter(|a| a.whatsapp_id == whatsapp_id).collect()
    }

    /// What arrived for a recipient.
    pub(crate) fn to(&self, recipient: &str) -> Vec<&Arrival> {
        self.0.iter().filter(|a| a.to == recipient).collect()
    }
}
