//! Files: kept while they are needed, gone afterwards.

use std::sync::Arc;
use std::time::Duration;

use super::World;
use super::rig::{Rig, from_now, new_user};
use crate::ids::{MediaId, SessionId, UserId};
use crate::message::{Content, Media, MessageType, NewMessage};
use crate::ports::audit::Actor;
use crate::ports::files::{FILE_KEPT, NewFile, StoredFile};
use crate::ports::store::{AcceptOutcome, Bounded, Moved, Outcome, Result, SWEEP_CHUNK, Scope, Store, StoreError};
use crate::time::Time;

fn new_file() -> NewFile {
    NewFile {
        id: MediaId::generate(),
        mime_type: "image/png".to_owned(),
        size: 5_000_000_000,
        filename: Some("Größe 1.png".to_owned()),
    }
}

/// As many bytes as anybody wants.
const MUCH: u64 = u64::MAX;
/// Less than any file here is kept for.
const NOW: Duration = Duration::ZERO;

async fn add(store: &Arc<dyn Store>, user: UserId, keep: Duration) -> StoredFile {
    let mut added = store.add_files(user, &[new_file()], keep, MUCH, Actor::MACHINE).await.expect("a file");
    assert_eq!(added.len(), 1);
    added.swap_remove(0)
}

async fn gone(store: &Arc<dyn Store>) -> Vec<MediaId> {
    store.gone_files().await.expect("a sweep")
}

/// A file is known as it was added, to its user and to whoever sees all.
pub async fn a_file_is_known_to_its_user(world: &dyn World) {
    let store = world.store().await;
    let (user, other) = (new_user(&store, None).await, new_user(&store, None).await);
    let new = [new_file(), NewFile { filename: None, ..new_file() }];
    let added = store.add_files(user, &new, FILE_KEPT, MUCH, Actor::MACHINE).await.expect("files");
    for (added, new) in added.iter().zip(&new) {
        assert_eq!((added.id, &added.mime_type, added.size), (new.id, &new.mime_type, new.size));
        assert_eq!(added.filename, new.filename);
        assert_eq!(added.expires_at, added.created_at.plus(FILE_KEPT));
        for scope in [Scope::User(user), Scope::All] {
            assert_eq!(store.file(scope, new.id).await.expect("an answer").as_ref(), Some(added));
        }
        assert_eq!(store.file(Scope::User(other), new.id).await.expect("an answer"), None);
    }
    assert_eq!(store.file(Scope::All, MediaId::generate()).await.expect("an answer"), None);
}

/// A message that sends a file.
fn with(rig: &Rig, to: u32, file: MediaId) -> NewMessage {
    let media = Media { id: Some(file), mime_type: Some("image/png".to_owned()), ..Media::default() };
    let content = Content { media: Some(media), ..Content::default() };
    NewMessage { kind: MessageType::Image, content, ..rig.draft(to) }
}

async fn end(store: &Arc<dyn Store>, file: MediaId) -> Time {
    store.file(Scope::All, file).await.expect("an answer").expect("the file is there").expires_at
}

/// A file is kept until a day after the end of each accepted message that names it, and never shorter than before; a refused
/// message prolongs nothing.
pub async fn a_file_is_kept_for_its_messages(world: &dyn World) {
    let store = world.store().await;
    let (rig, other) = (Rig::limited(&store, Some(2)).await, Rig::new(&store).await);
    let (file, foreign) = (add(&store, rig.user, FILE_KEPT).await, add(&store, other.user, FILE_KEPT).await);
    let found = store.files(rig.user, &[file.id, foreign.id, MediaId::generate()], NOW).await.expect("an answer");
    assert_eq!(found, std::slice::from_ref(&file), "one's own only");
    assert_eq!(store.files(rig.user, &[file.id], 2 * FILE_KEPT).await.expect("an answer"), [], "not for so long");
    assert_eq!(store.files(rig.user, &[], NOW).await.expect("an answer"), []);

    let later = from_now(5 * 86_400);
    let long = NewMessage { send_at: Some(later), expires_at: Some(later.plus(FILE_KEPT)), ..with(&rig, 1, file.id) };
    let outcomes = rig.accept(vec![with(&rig, 1, file.id), long.clone(), long.clone()]).await;
    assert!(matches!(outcomes[1], AcceptOutcome::Accepted { .. }), "{outcomes:?}");
    assert!(matches!(outcomes[2], AcceptOutcome::Accepted { .. } | AcceptOutcome::QuotaExceeded(_)), "{outcomes:?}");
    let kept = end(&store, file.id).await;
    assert_eq!(kept, later.plus(2 * FILE_KEPT), "the longest of them");
    // Refused: over the quota, of a user who isn't active, for a session that is gone, and another user's file.
    let longer = |draft: NewMessage| NewMessage { expires_at: Some(later.plus(10 * FILE_KEPT)), ..draft };
    let outcomes = rig.accept(vec![longer(with(&rig, 2, file.id))]).await;
    assert!(matches!(outcomes[..], [AcceptOutcome::QuotaExceeded(_)]), "{outcomes:?}");
    let gone = NewMessage { session: SessionId::generate(), ..longer(with(&other, 2, foreign.id)) };
    assert_eq!(other.accept(vec![gone]).await, [AcceptOutcome::SessionGone]);
    for id in [file.id, MediaId::generate()] {
        assert_eq!(other.accept(vec![longer(with(&other, 2, id))]).await, [AcceptOutcome::FileGone]);
    }
    store.set_active(other.user, false).await.expect("a change");
    let outcomes = other.accept(vec![longer(with(&other, 2, foreign.id))]).await;
    assert_eq!(outcomes, [AcceptOutcome::UserInactive]);
    assert_eq!((end(&store, file.id).await, end(&store, foreign.id).await), (kept, foreign.expires_at));
    assert_eq!(other.used().await, 0, "a refused message takes no unit");
}

/// A file can be removed before its time, by its user, unless a message needs it that is scheduled, waits or is being sent.
pub async fn a_file_is_removed_unless_a_message_needs_it(world: &dyn World) {
    let store = world.store().await;
    let (rig, other) = (Rig::new(&store).await, Rig::new(&store).await);
    let file = add(&store, rig.user, FILE_KEPT).await;
    let remove =
        async |rig: &Rig| store.remove_file(Scope::User(rig.user), file.id, Actor::MACHINE).await.expect("an answer");
    assert_eq!(remove(&other).await, Moved::Absent);
    let scheduled = rig.put(NewMessage { send_at: Some(from_now(3_600)), ..with(&rig, 1, file.id) }).await;
    rig.put(with(&rig, 2, file.id)).await;
    let refused = async || matches!(remove(&rig).await, Moved::Refused(refused) if refused.id == file.id);
    assert!(refused().await, "two wait for it");
    let outgoing = rig.claim_one().await;
    rig.cancel(scheduled).await;
    assert!(refused().await, "it is being sent");
    rig.settle(&outgoing, Outcome::Sent).await;
    assert!(matches!(remove(&rig).await, Moved::Done(done) if done.id == file.id));
    assert_eq!((remove(&rig).await, store.file(Scope::All, file.id).await.expect("an answer")), (Moved::Absent, None));
    assert_eq!(rig.accept(vec![with(&rig, 3, file.id)]).await, [AcceptOutcome::FileGone]);
    assert_eq!(gone(&store).await, [file.id], "its bytes are to go");
    let other_file = add(&store, rig.user, FILE_KEPT).await;
    assert!(matches!(store.remove_file(Scope::All, other_file.id, Actor::MACHINE).await, Ok(Moved::Done(_))));
}

/// Of accepting a message and removing its file at once one wins: no accepted message's file is gone.
pub async fn a_file_is_removed_or_sent(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let rig = Rig::new(&handles[0]).await;
    for round in 0..40_u32 {
        let file = add(&handles[0], rig.user, FILE_KEPT).await;
        let accept = rig.accept(vec![with(&rig, round, file.id)]);
        let remove = handles[1].remove_file(Scope::User(rig.user), file.id, Actor::MACHINE);
        let (accepted, removed) = if round % 2 == 0 {
            tokio::join!(accept, remove)
        } else {
            let (removed, accepted) = tokio::join!(remove, accept);
            (accepted, removed)
        };
        match (&accepted[..], &removed) {
            ([AcceptOutcome::Accepted { .. }], Ok(Moved::Refused(_))) => {
                assert!(handles[0].file(Scope::All, file.id).await.expect("an answer").is_some());
            }
            ([AcceptOutcome::FileGone], Ok(Moved::Done(_))) => {}
            other => panic!("one of the two: {other:?}"),
        }
    }
}

/// A user's files have so many bytes together at most, however many come at once; they count until they are forgotten.
pub async fn a_users_files_have_only_so_many_bytes(world: &dyn World) {
    let handles = [world.store().await, world.store().await];
    let (store, user) = (&handles[0], new_user(&handles[0], None).await);
    let other = new_user(store, None).await;
    let of = |size| NewFile { size, ..new_file() };
    let bytes = async |user| store.stored_bytes(user).await.expect("an answer");
    assert_eq!(bytes(user).await, 0);
    let asked =
        (0..40_usize).map(|n| {
            let store = &handles[n % 2];
            async move {
                store.add_files(user, &[NewFile { size: 30, ..new_file() }], FILE_KEPT, 1_000, Actor::MACHINE).await
            }
        });
    let added = futures_util::future::join_all(asked).await;
    let full = |added: &Result<Vec<StoredFile>>| {
        matches!(added, Err(StoreError::Full { what: Bounded::FileBytes, limit: 1_000 }))
    };
    assert_eq!(added.iter().filter(|added| added.is_ok()).count(), 33, "{added:?}");
    assert!(added.iter().all(|added| added.is_ok() || full(added)), "{added:?}");
    assert_eq!(bytes(user).await, 990);
    assert!(full(&store.add_files(user, &[of(5), of(6)], FILE_KEPT, 1_000, Actor::MACHINE).await), "all or none");
    store.add_files(user, &[of(5), of(5)], FILE_KEPT, 1_000, Actor::MACHINE).await.expect("just so many");
    assert!(full(&store.add_files(user, &[of(1)], FILE_KEPT, 1_000, Actor::MACHINE).await));
    assert!(full(&store.add_files(other, &[of(1_001)], FILE_KEPT, 1_000, Actor::MACHINE).await), "too large by itself");
    store.add_files(other, &[of(1_000)], FILE_KEPT, 1_000, Actor::MACHINE).await.expect("another user's");
    let ids: Vec<MediaId> = added.into_iter().flatten().flatten().map(|file| file.id).collect();
    assert!(matches!(store.remove_file(Scope::User(user), ids[0], Actor::MACHINE).await, Ok(Moved::Done(_))));
    store.discard_files(&ids[1..3]).await.expect("discarded");
    assert_eq!(bytes(user).await, 1_000, "the bytes are still there");
    let over = gone(store).await;
    assert_eq!(over.len(), 3);
    store.forget_files(&over).await.expect("forgotten");
    store.forget_files(&over).await.expect("forgotten, once");
    assert_eq!((bytes(user).await, bytes(other).await), (910, 1_000));
    let sums = world.numbers("SELECT CAST(SUM(size) AS bigint) FROM media GROUP BY user_id ORDER BY user_id").await;
    assert_eq!(sums, world.numbers("SELECT bytes FROM media_bytes ORDER BY user_id").await);
}

/// What nobody needs goes when its time is over; what is needed stays.
pub async fn a_file_that_nobody_needs_goes(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let user = rig.user;
    let (forgotten, needed, discarded) =
        (add(&store, user, FILE_KEPT).await, add(&store, user, FILE_KEPT).await, add(&store, user, FILE_KEPT).await);
    assert_eq!(gone(&store).await, [], "nothing's time is over yet");
    store.discard_files(&[discarded.id]).await.expect("discarded");
    assert_eq!(gone(&store).await, [discarded.id]);
    // A day later, by the clock of the rows; a message has been accepted meanwhile that needs one of them.
    world.alter("UPDATE media SET keep_until = keep_until - 86400000").await;
    rig.put(with(&rig, 1, needed.id)).await;
    let mut over = [forgotten.id, discarded.id];
    over.sort_unstable();
    assert_eq!(gone(&store).await, over);
    assert_eq!(gone(&store).await, over, "again, until they are forgotten");
    for id in over {
        assert_eq!(store.file(Scope::All, id).await.expect("an answer"), None);
        assert_eq!(store.files(user, &[id], NOW).await.expect("an answer"), [], "too late");
        assert_eq!(rig.accept(vec![with(&rig, 2, id)]).await, [AcceptOutcome::FileGone]);
    }
    store.forget_files(&[forgotten.id, discarded.id, needed.id]).await.expect("forgotten");
    assert_eq!(gone(&store).await, []);
    assert_eq!(world.numbers("SELECT count(*) FROM media").await, [1], "what isn't gone isn't forgotten");
    assert!(store.file(Scope::User(user), needed.id).await.expect("an answer").is_some());
}

/// A sweep takes a bounded number of files.
pub async fn files_go_in_chunks(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    let chunk = usize::try_from(SWEEP_CHUNK).expect("a small number");
    let files: Vec<_> = (0..chunk + 1).map(|_| new_file()).collect();
    store.add_files(user, &files, Duration::ZERO, MUCH, Actor::MACHINE).await.expect("files");
    let first = gone(&store).await;
    assert_eq!(first.len(), chunk);
    store.forget_files(&first).await.expect("forgotten");
    assert_eq!(gone(&store).await.len(), 1);
}

/// Of accepting a message and sweeping its file at once one wins: an accepted message's file is never gone.
pub async fn a_kept_file_is_never_swept(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let sweeper = world.store().await;
    for _ in 0..20 {
        let files: Vec<_> = (0..20).map(|_| new_file()).collect();
        let ids: Vec<_> = files.iter().map(|file| file.id).collect();
        store.add_files(rig.user, &files, Duration::ZERO, MUCH, Actor::MACHINE).await.expect("files");
        let (accepted, swept) = tokio::join!(
            futures_util::future::join_all(ids.iter().map(|id| rig.accept(vec![with(&rig, 1, *id)]))),
            sweeper.gone_files(),
        );
        let swept = swept.expect("a sweep");
        for (id, outcome) in ids.iter().zip(accepted) {
            let kept = match outcome[..] {
                [AcceptOutcome::Accepted { .. }] => true,
                [AcceptOutcome::FileGone] => false,
                ref other => panic!("accepted, or its file is gone: {other:?}"),
            };
            assert!(!(kept && swept.contains(id)), "kept and gone");
            assert_eq!(store.file(Scope::All, *id).await.expect("an answer").is_some(), kept || !swept.contains(id));
        }
    }
}
