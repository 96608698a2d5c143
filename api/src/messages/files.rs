//! Files that come with a message, and those uploaded before that it names.
//!
//! The order of things: what a message names is looked up while it is prepared; what comes with it becomes a file like any other
//! just before it is accepted, with a short life, and is discarded if it isn't. Accepting a message is what has its file kept as
//! long as the message needs it: a refused message prolongs nothing.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use sanasr_shared::ids::{MediaId, UserId};
use sanasr_shared::media::TempFile;
use sanasr_shared::ports::audit::Actor;
use sanasr_shared::ports::files::NewFile;

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

/// How long a file that has come with a message is kept before the message is accepted: far longer than that takes.
const UNACCEPTED_KEPT: Duration = Duration::from_secs(900);
/// A file that is removed sooner than this can't be named any more: the message that names it must be accepted before.
const LIFE_MIN: Duration = Duration::from_secs(60);

/// Looks up the uploaded files that drafts name; notes those that aren't there, and those that are too large.
pub(crate) async fn find_named(app: &App, user: UserId, drafts: &mut [Draft]) -> Result<(), Problem> {
    let limit = app.media.media_limit;
    for draft in &mut *drafts {
        if draft.file.as_ref().is_some_and(|file| file.size() > limit) {
            draft.fail("media.base64", "too_large", &format!("The file has more than {limit} bytes."));
        }
    }
    let ids: BTreeSet<MediaId> = drafts.iter().filter_map(Draft::media_id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = ids.into_iter().collect();
    let kept = app.store.files(user, &ids, LIFE_MIN).await?;
    let kept: HashMap<_, _> = kept.into_iter().map(|file| (file.id, file)).collect();
    for draft in drafts {
        if let Some(id) = draft.media_id() {
            draft.refer(kept.get(&id));
        }
    }
    Ok(())
}

/// Whether the file of a message that is sent once more is still there.
pub(crate) async fn find_again(app: &App, user: UserId, id: MediaId) -> Result<(), Problem> {
    match app.store.files(user, &[id], LIFE_MIN).await?.as_slice() {
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
    let (mut rows, mut kept) = (Vec::new(), Vec::new());
    for item in prepared.iter_mut() {
        let (Some(file), Some(media)) = (&item.file, &mut item.message.content.media) else { continue };
        let id = MediaId::generate();
        media.id = Some(id);
        let mime_type = media.mime_type.clone().unwrap_or_default();
        rows.push(NewFile { id, mime_type, size: file.size(), filename: media.filename.clone() });
        kept.push((item.position, id));
    }
    if rows.is_empty() {
        return Ok(kept);
    }
    app.files.check_room().await?;
    // Their messages have lines in the audit trail, if they are sent for another user.
    app.store.add_files(user, &rows, UNACCEPTED_KEPT, app.media.media_user_limit, Actor::MACHINE).await?;
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
