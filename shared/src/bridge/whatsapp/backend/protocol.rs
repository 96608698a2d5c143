//! What the protocol must remember beside keys: hidden ids, others' devices, groups, what was sent of late.

use async_trait::async_trait;
use wacore::store::error::Result;
use wacore::store::traits::{
    DeviceListRecord, LidPnMappingEntry, PendingInboundKey, PendingInboundRow, ProtocolStore, TcTokenEntry,
};

use super::super::state::{Change, State, key, parts};
use super::{Backend, Kind, failed, from_json, seconds, text, unreadable};
use crate::ports::devices::DeviceRange;
use crate::time::Time;

impl Backend {
    /// The changes that make a hidden id and a number each other's; a number that it had before loses it.
    async fn mapping(&self, entry: &LidPnMappingEntry, changes: &mut Vec<Change>) -> Result<()> {
        let old: Option<LidPnMappingEntry> = self.json(Kind::Lid, &entry.lid).await?;
        if let Some(old) = old.filter(|old| old.phone_number != entry.phone_number) {
            changes.push(State::gone(Kind::LidOfNumber, old.phone_number));
        }
        changes.push(self.0.put_json(Kind::Lid, &entry.lid, entry, Time::now()).map_err(failed)?);
        changes.push(self.put(Kind::LidOfNumber, &entry.phone_number, entry.lid.as_bytes()));
        Ok(())
    }

    /// A token as another one makes it, written if it changes.
    async fn token(
        &self,
        jid: &str,
        change: impl FnOnce(Option<TcTokenEntry>) -> Option<TcTokenEntry> + Send,
    ) -> Result<()> {
        let _turn = self.0.alone().await;
        match change(self.json(Kind::TcToken, jid).await?) {
            Some(entry) => self.set_json(Kind::TcToken, jid, &entry).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl ProtocolStore for Backend {
    async fn get_sender_key_devices(&self, group_jid: &str) -> Result<Vec<(String, bool)>> {
        let rows = self.0.list(Kind::SenderKeyDevice, key(&[group_jid])).await.map_err(failed)?;
        rows.into_iter()
            .map(|(place, value)| {
                let device = parts(&place).map_err(failed)?.pop().ok_or_else(|| unreadable("a key is broken"))?;
                Ok((device, value == [1]))
            })
            .collect()
    }

    async fn set_sender_key_status(&self, group_jid: &str, entries: &[(&str, bool)]) -> Result<()> {
        let changes = entries
            .iter()
            .map(|(device, has)| self.put(Kind::SenderKeyDevice, key(&[group_jid, device]), &[u8::from(*has)]));
        self.write(changes.collect()).await
    }

    async fn clear_sender_key_devices(&self, group_jid: &str) -> Result<()> {
        self.0.clear(Kind::SenderKeyDevice, DeviceRange::Prefix(key(&[group_jid]))).await.map(drop).map_err(failed)
    }

    async fn delete_sender_key_device_rows(&self, device_jids: &[&str]) -> Result<()> {
        let rows = self.0.list(Kind::SenderKeyDevice, b"").await.map_err(failed)?;
        let mut changes = Vec::new();
        for (place, _) in rows {
            if parts(&place).map_err(failed)?.pop().is_some_and(|device| device_jids.contains(&device.as_str())) {
                changes.push(State::gone(Kind::SenderKeyDevice, place));
            }
        }
        self.write(changes).await
    }

    async fn clear_all_sender_key_devices(&self) -> Result<()> {
        self.0.clear(Kind::SenderKeyDevice, DeviceRange::Prefix(Vec::new())).await.map(drop).map_err(failed)
    }

    async fn get_lid_mapping(&self, lid: &str) -> Result<Option<LidPnMappingEntry>> {
        self.json(Kind::Lid, lid).await
    }

    async fn get_pn_mapping(&self, phone: &str) -> Result<Option<LidPnMappingEntry>> {
        match self.bytes(Kind::LidOfNumber, phone).await? {
            Some(lid) => self.json(Kind::Lid, lid).await,
            None => Ok(None),
        }
    }

    async fn put_lid_mapping(&self, entry: &LidPnMappingEntry) -> Result<()> {
        self.put_lid_mappings(std::slice::from_ref(entry)).await
    }

    async fn put_lid_mappings(&self, entries: &[LidPnMappingEntry]) -> Result<()> {
        let _turn = self.0.alone().await;
        let mut changes = Vec::with_capacity(2 * entries.len());
        for entry in entries {
            self.mapping(entry, &mut changes).await?;
        }
        self.write(changes).await
    }

    async fn get_all_lid_mappings(&self) -> Result<Vec<LidPnMappingEntry>> {
        let rows = self.0.list(Kind::Lid, b"").await.map_err(failed)?;
        rows.iter().map(|(_, value)| from_json(value).map_err(failed)).collect()
    }

    async fn save_base_key(&self, address: &str, message_id: &str, base_key: &[u8]) -> Result<()> {
        self.set(Kind::BaseKey, key(&[address, message_id]), base_key).await
    }

    async fn has_same_base_key(&self, address: &str, message_id: &str, current_base_key: &[u8]) -> Result<bool> {
        let known = self.bytes(Kind::BaseKey, key(&[address, message_id])).await?;
        Ok(known.is_some_and(|known| known == current_base_key))
    }

    async fn delete_base_key(&self, address: &str, message_id: &str) -> Result<()> {
        self.remove(Kind::BaseKey, key(&[address, message_id])).await
    }

    async fn update_device_list(&self, record: DeviceListRecord) -> Result<()> {
        self.set_json(Kind::DeviceList, &record.user, &record).await
    }

    async fn update_device_lists(&self, records: Vec<DeviceListRecord>) -> Result<()> {
        let changes: std::result::Result<Vec<_>, _> =
            records.iter().map(|record| self.0.put_json(Kind::DeviceList, &record.user, record, Time::now())).collect();
        self.write(changes.map_err(failed)?).await
    }

    async fn get_devices(&self, user: &str) -> Result<Option<DeviceListRecord>> {
        self.json(Kind::DeviceList, user).await
    }

    async fn delete_devices(&self, user: &str) -> Result<()> {
        self.remove(Kind::DeviceList, user).await
    }

    async fn get_group_metadata(&self, group_jid: &str) -> Result<Option<Vec<u8>>> {
        self.bytes(Kind::Group, group_jid).await
    }

    async fn put_group_metadata(&self, group_jid: &str, blob: &[u8]) -> Result<()> {
        self.set(Kind::Group, group_jid, blob).await
    }

    async fn delete_group_metadata(&self, group_jid: &str) -> Result<()> {
        self.remove(Kind::Group, group_jid).await
    }

    async fn get_tc_token(&self, jid: &str) -> Result<Option<TcTokenEntry>> {
        self.json(Kind::TcToken, jid).await
    }

    async fn put_tc_token(&self, jid: &str, entry: &TcTokenEntry) -> Result<()> {
        self.token(jid, |_| Some(entry.clone())).await
    }

    async fn delete_tc_token(&self, jid: &str) -> Result<()> {
        self.remove(Kind::TcToken, jid).await
    }

    async fn get_all_tc_token_jids(&self) -> Result<Vec<String>> {
        let rows = self.0.list(Kind::TcToken, b"").await.map_err(failed)?;
        rows.into_iter().map(|(jid, _)| text(jid)).collect()
    }

    async fn delete_expired_tc_tokens(&self, token_cutoff: i64, sender_cutoff: i64) -> Result<u32> {
        let _turn = self.0.alone().await;
        let mut changes = Vec::new();
        for (jid, value) in self.0.list(Kind::TcToken, b"").await.map_err(failed)? {
            let entry: TcTokenEntry = from_json(&value).map_err(failed)?;
            let token_lives = !entry.token.is_empty() && entry.token_timestamp >= token_cutoff;
            if !token_lives && entry.sender_timestamp.is_none_or(|at| at < sender_cutoff) {
                changes.push(State::gone(Kind::TcToken, jid));
            }
        }
        let gone = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        self.write(changes).await?;
        Ok(gone)
    }

    async fn touch_tc_token_sender_timestamp(&self, jid: &str, sender_timestamp: i64) -> Result<()> {
        self.token(jid, |known| {
            let known = known.unwrap_or(TcTokenEntry {
                token: Vec::new(),
                token_timestamp: sender_timestamp,
                sender_timestamp: None,
            });
            let latest = known.sender_timestamp.map_or(sender_timestamp, |at| at.max(sender_timestamp));
            Some(TcTokenEntry { sender_timestamp: Some(latest), ..known })
        })
        .await
    }

    async fn store_received_tc_token(&self, jid: &str, token: &[u8], token_timestamp: i64) -> Result<()> {
        self.token(jid, |known| {
            let fresher = known.as_ref().is_some_and(|k| !k.token.is_empty() && token_timestamp < k.token_timestamp);
            let sender_timestamp = known.and_then(|known| known.sender_timestamp);
            (!fresher).then(|| TcTokenEntry { token: token.to_vec(), token_timestamp, sender_timestamp })
        })
        .await
    }

    async fn store_sent_message(&self, chat_jid: &str, message_id: &str, payload: &[u8]) -> Result<()> {
        self.set(Kind::SentMessage, key(&[chat_jid, message_id]), payload).await
    }

    async fn take_sent_message(&self, chat_jid: &str, message_id: &str) -> Result<Option<Vec<u8>>> {
        let _turn = self.0.alone().await;
        let place = key(&[chat_jid, message_id]);
        let payload = self.bytes(Kind::SentMessage, &place).await?;
        if payload.is_some() {
            self.remove(Kind::SentMessage, place).await?;
        }
        Ok(payload)
    }

    async fn delete_expired_sent_messages(&self, cutoff_timestamp: i64) -> Result<u32> {
        self.0.clear(Kind::SentMessage, DeviceRange::Before(seconds(cutoff_timestamp))).await.map_err(failed)
    }

    async fn store_pending_inbound(&self, chat: &str, sender: &str, id: &str, message: &[u8]) -> Result<()> {
        self.set(Kind::PendingInbound, key(&[chat, sender, id]), message).await
    }

    async fn get_pending_inbound(&self, chat: &str, sender: &str, id: &str) -> Result<Option<Vec<u8>>> {
        self.bytes(Kind::PendingInbound, key(&[chat, sender, id])).await
    }

    async fn delete_pending_inbound(&self, chat: &str, sender: &str, id: &str) -> Result<()> {
        self.remove(Kind::PendingInbound, key(&[chat, sender, id])).await
    }

    async fn delete_expired_pending_inbound(&self, cutoff_timestamp: i64) -> Result<u32> {
        self.0.clear(Kind::PendingInbound, DeviceRange::Before(seconds(cutoff_timestamp))).await.map_err(failed)
    }

    async fn store_pending_inbound_batch(&self, rows: &[PendingInboundRow<'_>]) -> Result<()> {
        let changes =
            rows.iter().map(|row| self.put(Kind::PendingInbound, key(&[row.chat, row.sender, row.id]), row.message));
        self.write(changes.collect()).await
    }

    async fn delete_pending_inbound_batch(&self, keys: &[PendingInboundKey<'_>]) -> Result<()> {
        let changes = keys.iter().map(|one| State::gone(Kind::PendingInbound, key(&[one.chat, one.sender, one.id])));
        self.write(changes.collect()).await
    }
}
