//! Files that come with a message, and those uploaded before that it names.
//!
//! The order of things: what a message names is kept for it while it is prepared; what comes with it becomes a file like any
//! other just before it is accepted, and is discarded if it isn't.

use std::collections::HashMap;
use std::time::Duration;

use sanasr_shared::ids::{MediaId, UserId};
use sanasr_shared::media::TempFile;
use sanasr_shared::message::DEFAULT_LIFE;
use sanasr_shared::ports::files::{FILE_KEPT, NewFile};
use sanasr_shared::time::Time;

use super::accept::Answer;
use super::draft::{Draft, Prepared};
use crate::problem::Problem;
use crate::state::App;

/// A file that has come with a message.
#[derive(Debug)]
pub(crate) enum NewContent {
    /// In the message's JSON.
    Bytes(Vec<u8>),
    /// As a part of its own.
    File(TempFile),
}

impl NewContent {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(file) => file.size(),
        }
    }
}

/// Has the uploaded files kept that drafts name; notes those that aren't there, and those that are too large.
pub(crate) async fn keep_named(app: &App, user: UserId, drafts: &mut [Draft]) -> Result<(), Problem> {
    let limit = app.media.media_limit;
    for draft in &mut *drafts {
        if draft.file.as_ref().is_some_and(|file| file.size() > limit) {
            draft.fail("media.base64", "too_large", &format!("The file has more than {limit} bytes."));
        }
    }
    let now = Time::now();
    let named = drafts.iter().filter_map(|draft| Some((draft.media_id()?, draft.ends_at(now))));
    let (mut ids, ends): (Vec<MediaId>, Vec<Time>) = named.unzip();
    let Some(end) = ends.into_iter().max() else { return Ok(()) };
    ids.sort_unstable();
    ids.dedup();
    let kept = app.store.keep_files(user, &ids, end.plus(FILE_KEPT)).await?;
    let kept: HashMap<_, _> = kept.into_iter().map(|file| (file.id, file)).collect();
    for draft in drafts {
        if let Some(id) = draft.media_id() {
            draft.refer(kept.get(&id));
        }
    }
    Ok(())
}

/// Has a file kept for a message that is sent once more.
pub(crate) async fn keep_again(app: &App, user: UserId, id: MediaId) -> Result<(), Problem> {
    let end = Time::now().plus(DEFAULT_LIFE).plus(FILE_KEPT);
    match app.store.keep_files(user, &[id], end).await?.as_slice() {
        [] => Err(Problem::conflict("The message's file isn't kept any more.")),
        _ => Ok(()),
    }
}

/// Makes files of what has come with messages; answers them by the messages' positions.
pub(crate) async fn keep_new(
    app: &App,
    user: UserId,
    prepared: &mut [Prepared],
) -> Result<Vec<(u32, MediaId)>, Problem> {
    let now = Time::now();
    let (mut rows, mut kept, mut end) = (Vec::new(), Vec::new(), now);
    for item in prepared.iter_mut() {
        let (Some(file), Some(media)) = (&item.file, &mut item.message.content.media) else { continue };
        let id = MediaId::generate();
        media.id = Some(id);
        let mime_type = media.mime_type.clone().unwrap_or_default();
        rows.push(NewFile { id, mime_type, size: file.size(), filename: media.filename.clone() });
        kept.push((item.position, id));
        end = end.max(item.message.expires_at(now));
    }
    if rows.is_empty() {
        return Ok(kept);
    }
    let keep: Duration = end.plus(FILE_KEPT).since(now);
    app.store.add_files(user, &rows, keep).await?;
    let files = prepared.iter_mut().filter_map(|item| item.file.take());
    for (file, (_, id)) in files.zip(&kept) {
        if let Err(problem) = write(app, file, *id).await {
            discard(app, kept.iter().map(|(_, id)| *id)).await;
            return Err(problem);
        }
    }
    Ok(kept)
}

async fn write(app: &App, content: NewContent, id: MediaId) -> Result<(), Problem> {
    let file = match content {
        NewContent::File(file) => file,
        NewContent::Bytes(bytes) => {
            let mut file = app.files.temporary().await?;
            file.write(&bytes).await?;
            file
        }
    };
    Ok(app.files.keep(id, file).await?)
}

/// Discards the files of messages that weren't accepted.
pub(crate) async fn discard_refused(app: &App, kept: Vec<(u32, MediaId)>, answers: &[(u32, Answer)]) {
    let accepted =
        |position| answers.iter().any(|(at, answer)| *at == position && matches!(answer, Answer::Accepted(_)));
    discard(app, kept.into_iter().filter(|(position, _)| !accepted(*position)).map(|(_, id)| id)).await;
}

/// Discards files. If that can't be done now, they go when their time is over.
pub(crate) async fn discard(app: &App, ids: impl Iterator<Item = MediaId>) {
    let ids: Vec<_> = ids.collect();
    if !ids.is_empty()
        && let Err(error) = app.store.discard_files(&ids).await
    {
        tracing::debug!(%error, files = ids.len(), "refused messages' files stay for their time");
    }
}
