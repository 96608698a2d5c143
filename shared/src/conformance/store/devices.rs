//! Device state: durable, in order, the owner's alone, and gone when its session is.

use std::collections::HashSet;

use futures_util::future::join_all;

use super::World;
use super::rig::{Rig, bury, eventually, report};
use crate::ids::WorkerId;
use crate::ports::audit::Actor;
use crate::ports::devices::{DeviceChange, DeviceRange, DeviceWrite};
use crate::ports::store::*;
use crate::session::SessionStatus;
use crate::time::Time;

fn put(key: &[u8], value: &[u8]) -> DeviceChange {
    put_at(key, value, Time(1_000))
}

fn put_at(key: &[u8], value: &[u8], at: Time) -> DeviceChange {
    DeviceChange { kind: 1, key: key.to_vec(), value: Some((value.to_vec(), at)) }
}

fn gone(key: &[u8]) -> DeviceChange {
    DeviceChange { kind: 1, key: key.to_vec(), value: None }
}

impl Rig {
    fn device_write(&self, changes: Vec<DeviceChange>) -> DeviceWrite {
        DeviceWrite { worker: self.worker, session: self.session, changes }
    }

    async fn write_device(&self, changes: Vec<DeviceChange>) {
        assert!(self.store.write_device(self.device_write(changes)).await.expect("a write"), "the session is ours");
    }

    /// All of kind 1.
    async fn device(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.store.device_prefix(self.session, 1, Vec::new(), 1_000).await.expect("a read")
    }
}

fn rows(rows: &[(&[u8], &[u8])]) -> Vec<(Vec<u8>, Vec<u8>)> {
    rows.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// What was written is read back, also through another process, by key and by prefix; of two changes of a key the later
/// counts.
pub async fn device_state_is_read_back(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    rig.write_device(vec![put(b"a", b"1"), put(b"ab", &[0, 255, 0]), put(b"b", b""), put(b"\xff\xff", b"last")]).await;
    rig.write_device(vec![put(b"b", b"x"), put(b"b", b"y"), gone(b"a"), put(b"c", b"1"), gone(b"c"), gone(b"none")])
        .await;
    let other = rig.through(&world.store().await);
    assert_eq!(other.device().await, rows(&[(b"ab", &[0, 255, 0]), (b"b", b"y"), (b"\xff\xff", b"last")]));
    let values =
        other.store.device_values(rig.session, 1, vec![b"b".to_vec(), b"none".to_vec()]).await.expect("a read");
    assert_eq!(values, rows(&[(b"b", b"y")]));
    let prefix = |prefix: &[u8], limit| other.store.device_prefix(rig.session, 1, prefix.to_vec(), limit);
    assert_eq!(prefix(b"a", 10).await.expect("a read"), rows(&[(b"ab", &[0, 255, 0])]));
    assert_eq!(prefix(b"\xff", 10).await.expect("a read"), rows(&[(b"\xff\xff", b"last")]));
    assert_eq!(prefix(b"", 1).await.expect("a read").len(), 1);
    assert!(other.store.device_prefix(rig.session, 2, Vec::new(), 10).await.expect("a read").is_empty());
}

/// Several keys are removed at once, by prefix or by time, and no others.
pub async fn device_state_is_cleared_in_ranges(world: &dyn World) {
    let rig = Rig::new(&world.store().await).await;
    let other = rig.another_session("other").await;
    for rig in [&rig, &other] {
        rig.write_device(vec![put_at(b"a1", b"", Time(1)), put_at(b"a2", b"", Time(2)), put_at(b"b", b"", Time(3))])
            .await;
    }
    let clear = |range| rig.store.clear_device(rig.worker, rig.session, 1, range);
    assert_eq!(clear(DeviceRange::Before(Time(2))).await.expect("a write"), Some(1));
    assert_eq!(clear(DeviceRange::Prefix(b"a".to_vec())).await.expect("a write"), Some(1));
    assert_eq!(rig.device().await, rows(&[(b"b", b"")]));
    assert_eq!(clear(DeviceRange::Prefix(Vec::new())).await.expect("a write"), Some(1));
    assert_eq!((rig.device().await.len(), other.device().await.len()), (0, 3));
}

/// Many sessions' writes at once all land, each session's in its order.
pub async fn device_writes_at_once_all_land(world: &dyn World) {
    let store = world.store().await;
    let rigs = Rig::several(&store, 8, None).await;
    join_all(rigs.iter().map(|rig| async move {
        for n in 0..20_u8 {
            rig.write_device(vec![put(b"counter", &[n]), put(&[n], &[n]), gone(&[n.wrapping_sub(2)])]).await;
        }
    }))
    .await;
    for rig in &rigs {
        assert_eq!(rig.device().await, rows(&[(&[18], &[18]), (&[19], &[19]), (b"counter", &[19])]));
    }
}

/// Only the owner writes: not a worker that was declared dead, nor one that has given the session back, nor a stranger.
pub async fn device_state_is_its_owners(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    rig.write_device(vec![put(b"a", b"1")]).await;
    let taken = rig.taken_over().await;
    let late = store.write_device(rig.device_write(vec![put(b"a", b"late")])).await;
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
    let late = store.clear_device(rig.worker, rig.session, 1, DeviceRange::Prefix(Vec::new())).await;
    assert!(matches!(late, Err(StoreError::Fenced)), "{late:?}");
    let stranger = Rig { worker: WorkerId::generate(), ..rig.clone() };
    assert!(matches!(store.write_device(stranger.device_write(vec![gone(b"a")])).await, Err(StoreError::Fenced)));

    store.give_back(taken.worker, &[taken.session]).await.expect("given back");
    assert!(!store.write_device(taken.device_write(vec![put(b"a", b"late")])).await.expect("an answer"));
    let cleared = store.clear_device(taken.worker, taken.session, 1, DeviceRange::Prefix(Vec::new())).await;
    assert_eq!(cleared.expect("an answer"), None);
    assert_eq!(rig.device().await, rows(&[(b"a", b"1")]));
}

/// An owner that is declared dead in the middle of its writes leaves all of a write or nothing of it.
pub async fn a_device_write_is_whole(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let writes = (0..50_u8).map(|n| {
        let write = rig.device_write(vec![put(&[n, 1], b""), put(&[n, 2], b"")]);
        let store = &store;
        async move { store.write_device(write).await.is_ok_and(|ours| ours).then_some(n) }
    });
    let (written, ()) = futures_util::join!(join_all(writes), bury(&store, rig.worker));
    let found: Vec<u8> = rig.device().await.into_iter().map(|(key, _)| key[0]).collect();
    let once: HashSet<u8> = found.iter().copied().collect();
    assert_eq!(found.len(), 2 * once.len(), "halves: {found:?}");
    assert!(written.into_iter().flatten().all(|n| once.contains(&n)), "what was answered is there");
}

/// Unlinking wipes the state, whoever does it, and so does the end of a deleted session.
pub async fn device_state_ends_with_its_pairing(world: &dyn World) {
    let store = world.store().await;
    let rig = Rig::new(&store).await;
    let kept = rig.another_session("kept").await;
    let doomed = rig.another_session("doomed").await;
    for rig in [&rig, &kept, &doomed] {
        rig.write_device(vec![put(b"a", b"1")]).await;
    }
    let unlinked = SessionReport { pairing: Some(Pairing::Unlinked), ..report(SessionStatus::LoggedOut) };
    store.report(rig.worker, rig.session, &unlinked).await.expect("a report");
    assert!(rig.device().await.is_empty());

    // Nobody owns it: the user's word is enough.
    store.give_back(kept.worker, &[kept.session]).await.expect("given back");
    store.command(rig.user, "kept", SessionCommand::Disconnect, Actor::MACHINE).await.expect("a command");
    assert_eq!(kept.device().await.len(), 1);
    store.command(rig.user, "kept", SessionCommand::Logout, Actor::MACHINE).await.expect("a command");
    assert!(kept.device().await.is_empty());

    assert!(store.delete_session(rig.user, "doomed", Actor::MACHINE).await.expect("a deletion"));
    store.give_back(doomed.worker, &[doomed.session]).await.expect("given back");
    world.alter("UPDATE sessions SET deleting_at = deleting_at - 60000 WHERE deleting_at IS NOT NULL").await;
    eventually("the deleted session's state goes", || async {
        store.drain_deleted().await.expect("a sweep");
        doomed.device().await.is_empty().then_some(())
    })
    .await;
}
