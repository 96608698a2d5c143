//! What later changes of a message are encrypted with: reactions, votes, edits.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use wacore::store::error::Result;
use wacore::store::traits::{MsgSecretEntry, MsgSecretStore, merge_msg_secret_expiry, merge_msg_secret_message_ts};

use super::super::state::key;
use super::{Backend, Kind, failed, seconds};
use crate::ports::devices::DeviceRange;
use crate::time::Time;

#[derive(Serialize, Deserialize)]
struct Secret {
    secret: Vec<u8>,
    /// 0 for never.
    expires_at: i64,
    message_ts: i64,
}

#[async_trait]
impl MsgSecretStore for Backend {
    async fn put_msg_secrets(&self, entries: Vec<MsgSecretEntry>) -> Result<usize> {
        let _turn = self.0.alone().await;
        let mut changes = Vec::with_capacity(entries.len());
        for entry in &entries {
            let place = key(&[&entry.chat, &entry.sender, &entry.msg_id]);
            let known: Option<Secret> = self.json(Kind::MessageSecret, &place).await?;
            let (mut expires_at, mut message_ts) = (entry.expires_at, entry.message_ts);
            if let Some(known) = known {
                expires_at = merge_msg_secret_expiry(known.expires_at, expires_at);
                message_ts = merge_msg_secret_message_ts(known.message_ts, message_ts);
            }
            let value = Secret { secret: entry.secret.to_vec(), expires_at, message_ts };
            let at = if expires_at == 0 { Time(i64::MAX) } else { seconds(expires_at) };
            changes.push(self.0.put_json(Kind::MessageSecret, place, &value, at).map_err(failed)?);
        }
        self.write(changes).await?;
        Ok(entries.len())
    }

    async fn get_msg_secret(&self, chat: &str, sender: &str, msg_id: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.get_msg_secret_with_ts(chat, sender, msg_id).await?.map(|(secret, _)| secret))
    }

    async fn get_msg_secret_with_ts(&self, chat: &str, sender: &str, msg_id: &str) -> Result<Option<(Vec<u8>, i64)>> {
        let known: Option<Secret> = self.json(Kind::MessageSecret, key(&[chat, sender, msg_id])).await?;
        Ok(known.map(|known| (known.secret, known.message_ts)))
    }

    async fn delete_expired_msg_secrets(&self, cutoff_timestamp: i64) -> Result<u32> {
        let before = DeviceRange::Before(seconds(cutoff_timestamp.saturating_add(1)));
        self.0.clear(Kind::MessageSecret, before).await.map_err(failed)
    }
}
