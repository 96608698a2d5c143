//! Files: kept while they are needed, gone afterwards.

use std::sync::Arc;
use std::time::Duration;

use super::World;
use super::rig::new_user;
use crate::ids::{MediaId, UserId};
use crate::ports::files::{FILE_KEPT, NewFile, StoredFile};
use crate::ports::store::{SWEEP_CHUNK, Scope, Store};

fn new_file() -> NewFile {
    NewFile {
        id: MediaId::generate(),
        mime_type: "image/png".to_owned(),
        size: 5_000_000_000,
        filename: Some("Größe 1.png".to_owned()),
    }
}

async fn add(store: &Arc<dyn Store>, user: UserId, keep: Duration) -> StoredFile {
    let mut added = store.add_files(user, &[new_file()], keep).await.expect("a file");
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
    let added = store.add_files(user, &new, FILE_KEPT).await.expect("files");
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

/// A file that a message refers to is kept as long as the message needs it, and never shorter than before.
pub async fn a_file_is_kept_for_its_message(world: &dyn World) {
    let store = world.store().await;
    let (user, other) = (new_user(&store, None).await, new_user(&store, None).await);
    let (file, foreign) = (add(&store, user, FILE_KEPT).await, add(&store, other, FILE_KEPT).await);
    let later = file.expires_at.plus(FILE_KEPT);
    let ids = [file.id, foreign.id, MediaId::generate()];
    let kept = store.keep_files(user, &ids, later).await.expect("an answer");
    assert_eq!(kept, [StoredFile { expires_at: later, ..file.clone() }], "one's own only");
    let kept = store.keep_files(user, &[file.id], file.created_at).await.expect("an answer");
    assert_eq!(kept[0].expires_at, later, "never shorter");
    let untouched = store.file(Scope::All, foreign.id).await.expect("an answer");
    assert_eq!(untouched, Some(foreign));
    assert_eq!(store.keep_files(user, &[], later).await.expect("an answer"), []);
}

/// What nobody needs goes when its time is over; what is needed stays.
pub async fn a_file_that_nobody_needs_goes(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    let (forgotten, needed, discarded) =
        (add(&store, user, FILE_KEPT).await, add(&store, user, FILE_KEPT).await, add(&store, user, FILE_KEPT).await);
    assert_eq!(gone(&store).await, [], "nothing's time is over yet");
    store.discard_files(&[discarded.id]).await.expect("discarded");
    assert_eq!(gone(&store).await, [discarded.id]);
    // A day later, by the clock of the rows; the needed one has been asked for meanwhile.
    world.alter("UPDATE media SET keep_until = keep_until - 86400000").await;
    store.keep_files(user, &[needed.id], needed.expires_at).await.expect("kept");
    let mut over = [forgotten.id, discarded.id];
    over.sort_unstable();
    assert_eq!(gone(&store).await, over);
    assert_eq!(gone(&store).await, over, "again, until they are forgotten");
    for id in over {
        assert_eq!(store.file(Scope::All, id).await.expect("an answer"), None);
        assert_eq!(store.keep_files(user, &[id], needed.expires_at).await.expect("an answer"), [], "too late");
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
    store.add_files(user, &files, Duration::ZERO).await.expect("files");
    let first = gone(&store).await;
    assert_eq!(first.len(), chunk);
    store.forget_files(&first).await.expect("forgotten");
    assert_eq!(gone(&store).await.len(), 1);
}

/// Of keeping a file and sweeping it at once one wins: what was answered as kept is never gone.
pub async fn a_kept_file_is_never_swept(world: &dyn World) {
    let store = world.store().await;
    let user = new_user(&store, None).await;
    let sweeper = world.store().await;
    for _ in 0..20 {
        let files: Vec<_> = (0..20).map(|_| new_file()).collect();
        let ids: Vec<_> = files.iter().map(|file| file.id).collect();
        let added = store.add_files(user, &files, Duration::ZERO).await.expect("files");
        let until = added[0].created_at.plus(FILE_KEPT);
        let (kept, swept) = tokio::join!(
            futures_util::future::join_all(ids.iter().map(|id| store.keep_files(
                user,
                std::slice::from_ref(id),
                until
            ))),
            sweeper.gone_files(),
        );
        let swept = swept.expect("a sweep");
        for (id, kept) in ids.iter().zip(kept) {
            let kept = !kept.expect("an answer").is_empty();
            assert!(!(kept && swept.contains(id)), "kept and gone");
            assert_eq!(store.file(Scope::All, *id).await.expect("an answer").is_some(), kept || !swept.contains(id));
        }
    }
}
