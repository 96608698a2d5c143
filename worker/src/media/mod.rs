//! A message's file, brought to this machine before the bridge is called: from where we keep it, or from its address.

mod address;
mod fetch;
mod places;

use sanasr_shared::ids::UserId;
use sanasr_shared::media::{FileError, FileStore, LocalFile, check_voice};
use sanasr_shared::message::{Media, MessageError, MessageType};
use sanasr_shared::ports::bridge::Attachment;
use sanasr_shared::settings::MediaSettings;

use self::fetch::{Fetched, Fetcher};

/// Why a message has no file. Either way nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It may be had later.
    Now(MessageError),
    /// It never will be.
    Forever(MessageError),
}

impl Missing {
    fn now(code: &str, detail: impl Into<String>) -> Self {
        Self::Now(MessageError::new(code, detail, true))
    }

    fn forever(code: &str, detail: impl Into<String>) -> Self {
        Self::Forever(MessageError::new(code, detail, false))
    }
}

/// A file that is here, as long as this lives.
#[derive(Debug)]
pub(crate) struct Brought {
    pub(crate) attachment: Attachment,
    _file: LocalFile,
}

/// Brings files.
pub(crate) struct Bringer {
    files: FileStore,
    fetcher: Fetcher,
}

impl Bringer {
    pub(crate) fn new(files: FileStore, settings: &MediaSettings) -> Self {
        Self { files, fetcher: Fetcher::new(settings) }
    }

    /// Brings the file of a user's message of this type.
    pub(crate) async fn bring(&self, user: UserId, kind: MessageType, media: &Media) -> Result<Brought, Missing> {
        let (file, mime_type, named) = match (media.id, &media.url) {
            (Some(id), _) => {
                let mime_type = media.mime_type.clone().unwrap_or_else(|| "application/octet-stream".to_owned());
                (self.files.get(id).await.map_err(missing)?, mime_type, None)
            }
            (None, Some(url)) => {
                let Fetched { file, mime_type, filename } = self.fetcher.fetch(user, url, kind, &self.files).await?;
                if media.voice == Some(true) {
                    check_voice(&mime_type).map_err(|detail| Missing::forever("media_type_mismatch", detail))?;
                }
                // Nothing but a document shows its name.
                (file, mime_type, filename.filter(|_| kind == MessageType::Document))
            }
            (None, None) => return Err(Missing::Forever(MessageError::internal("it names no file"))),
        };
        let filename = media.filename.clone().or(named);
        let attachment = Attachment { path: file.path.clone(), mime_type, size: file.size, filename };
        Ok(Brought { attachment, _file: file })
    }
}

fn missing(error: FileError) -> Missing {
    match error {
        FileError::Gone => Missing::forever("media_gone", "The file isn't kept any more."),
        // What is said of the disk is nobody's business outside.
        FileError::Full | FileError::Unavailable(_) => {
            tracing::warn!(%error, "a message's file can't be read or written");
            Missing::now("media_unreachable", "The place where files are kept can't be reached.")
        }
    }
}
