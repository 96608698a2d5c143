//! The promises of the [`Store`].
//!
//! A promise is a function over a [`World`]: a database of its own, reached through the port alone. Its name says what is
//! promised, and its panic what was broken. To add one, write a `pub async fn name(world: &dyn World)` into the file of its
//! subject and its name into [`store_suite!`](crate::store_suite); a test holds the two together.
//!
//! Nothing here waits for a fixed time: what takes time is waited for as a condition, with an end. Times come from the
//! database's clock wherever the store decides by it.

use std::sync::Arc;

use async_trait::async_trait;

use crate::ports::store::{AcceptedJob, Store};

pub mod accepting;
pub mod accounts;
pub mod audit;
pub mod departures;
pub mod devices;
pub mod doubt;
pub mod events;
pub mod fence;
pub mod files;
pub mod housekeeping;
pub mod idempotency;
pub mod journal;
pub mod lists;
pub mod logins;
pub mod moves;
pub mod operations;
pub mod ownership;
pub mod people;
pub mod pull;
pub mod quota;
pub mod receipts;
pub mod sessions;
pub mod waiting;

mod model;
mod rig;
mod walk;

/// A fresh database, and what a promise needs to know of it.
#[async_trait]
pub trait World: Send + Sync {
    /// A handle to the database as another process has it. An embedded database, which has one process only, gives the
    /// same one again.
    async fn store(&self) -> Arc<dyn Store>;

    /// What all handles' accept hooks were called with so far, in the order of the calls.
    fn accepted_jobs(&self) -> Vec<AcceptedJob>;

    /// Whether several handles are several processes.
    fn distributed(&self) -> bool;

    /// The numbers in the only column of a query: for what no port shows.
    async fn numbers(&self, query: &'static str) -> Vec<i64>;

    /// Changes rows behind the store's back: for what only days could bring about.
    async fn alter(&self, statement: &'static str);
}

/// Makes a test of every promise of the store: `store_suite!(sqlite, sqlite_world)` makes a module `sqlite` of tests, each
/// of which calls `sqlite_world().await` for a [`World`] of its own. The function must be in scope where the macro stands.
#[macro_export]
macro_rules! store_suite {
    ($module:ident, $world:ident) => {
        $crate::store_suite! { @tests $module $world
            accepting: [
                a_message_is_stored_as_asked,
                a_message_ends_a_default_life_after_it_falls_due,
                the_order_is_that_of_acceptance,
                concurrent_callers_keep_their_order,
                accepted_messages_ring_once_and_in_order,
                each_item_stands_for_itself,
                an_inactive_user_is_refused,
                a_poisoned_item_fails_alone,
                text_comes_back_as_it_was,
                an_empty_request_is_harmless,
            ]
            departures: [
                a_caller_that_leaves_changes_nothing_for_the_next,
            ]
            devices: [
                device_state_is_read_back,
                device_state_is_cleared_in_ranges,
                device_writes_at_once_all_land,
                device_state_is_its_owners,
                a_device_write_is_whole,
                device_state_ends_with_its_pairing,
            ]
            operations: [
                workers_are_listed_with_what_they_drive,
                queues_show_depth_age_and_owner,
                dead_letters_are_what_could_not_be_processed,
                what_waits_and_matches_is_cancelled_at_once,
                a_cancel_of_all_ends_with_what_was_there,
                a_pair_code_goes_from_the_owner_to_the_user,
            ]
            idempotency: [
                a_repeated_request_makes_one_message,
                another_body_under_a_key_is_refused,
                a_single_message_under_a_batches_key_is_refused,
                of_two_bodies_under_a_key_one_wins,
                a_repeated_batch_tries_refused_items_again,
                a_batch_at_once_makes_each_item_once,
                keys_belong_to_users,
                a_refused_request_leaves_its_key_free,
                a_replay_needs_nothing_else,
                the_same_ids_again_take_nothing,
                known_and_new_ids_mix,
                opposite_orders_never_fail,
                a_row_is_taken_for_ones_own_only_if_it_is,
            ]
            quota: [
                never_more_than_the_limit,
                what_is_left_goes_to_the_first,
                the_quota_is_told,
                limits_take_effect_at_once,
                a_message_never_sent_gives_its_unit_back_once,
                a_unit_goes_back_to_its_day,
                a_sent_message_keeps_its_unit,
                ten_times_the_limit_is_accepted_at_most,
                a_quota_never_falls_below_nothing,
                one_cancel_of_many_is_done,
                cancel_races_with_the_pull,
                random_batches_and_refunds_keep_the_quota,
                requests_are_counted,
            ]
            moves: [
                every_operation_on_every_state,
                every_operation_on_every_stale_state,
                promotion_on_every_state,
                expiry_on_every_state,
                random_walks_agree_with_the_model,
            ]
            pull: [
                a_claim_has_all_that_sending_needs,
                an_answer_to_nothing_is_sent,
                one_message_at_a_time_to_each_recipient,
                a_retry_holds_up_its_recipient_only,
                places_are_filled_oldest_first,
                a_pull_for_nothing_claims_nothing,
                a_held_up_recipient_doesnt_starve_the_session,
                a_held_up_recipient_follows_in_order,
                a_named_recipient_is_looked_at_wherever_it_is,
                a_pull_tells_what_waits,
                the_lower_bound_misses_nothing,
                waiting_messages_are_claimed_when_due,
                what_expired_isnt_claimed,
                a_scheduled_message_holds_nobody_up,
                a_session_that_may_not_send_isnt_ready,
                what_another_actor_left_is_in_doubt,
                what_a_dead_worker_left_is_in_doubt,
                pulls_at_once_claim_each_message_once,
                sessions_pulled_at_once_get_their_own,
                sessions_of_a_user_are_apart,
                a_busy_session_sends_each_message_once_and_in_order,
                counts_that_are_at_their_end_hold_up_no_other,
            ]
            fence: [
                a_buried_worker_writes_nothing,
                an_unknown_worker_writes_nothing,
                a_fence_holds_only_its_worker,
                a_session_given_back_is_closed_to_its_giver,
                another_claim_or_attempt_is_refused,
                settlements_racing_with_a_burial_are_in_time_or_fenced,
            ]
            doubt: [
                an_attempt_in_doubt_stays_sending,
                a_later_not_sent_doesnt_wipe_an_earlier_doubt,
                expiry_after_doubt_is_an_unknown_outcome,
                a_released_attempt_leaves_no_doubt,
                attempts_not_sent_leave_no_doubt,
                a_receipt_lifts_an_unknown_outcome,
                a_late_acknowledgement_lifts_an_unknown_outcome,
                an_earlier_attempts_acknowledgement_counts,
                a_definite_end_has_no_way_out,
                crashes_before_the_call_make_a_dead_letter,
                crashes_after_the_call_are_in_doubt,
                a_crash_waits_before_the_next_attempt,
                an_abandoned_message_holds_up_no_other,
                only_what_is_under_way_is_abandoned,
            ]
            events: [
                each_change_of_a_message_is_an_event,
                what_changes_nothing_is_no_event,
                each_change_of_a_session_is_an_event,
            ]
            journal: [
                events_are_read_in_order,
                sessions_are_found_by_id,
                keys_stand_until_they_end,
                logins_stand_until_they_end,
                the_api_log_is_listed,
                a_rare_line_is_found_in_bounded_pages,
                old_lines_of_the_api_log_go,
                the_api_log_has_only_so_many_lines,
                usage_is_listed_by_day_and_user,
            ]
            receipts: [
                receipts_follow_the_acknowledgement,
                a_status_never_moves_backwards,
                a_batch_is_folded_by_message,
                a_receipt_before_the_acknowledgement_counts,
                a_receipt_counts_from_accepted_on,
                times_are_in_order_whatever_the_clocks_say,
                strange_receipts_change_nothing,
                receipts_of_another_session_change_nothing,
                receipts_reach_messages_of_the_former_owner,
                sent_files_are_counted_once,
                what_awaits_receipts_is_known,
                a_session_shows_when_it_sent_last,
            ]
            waiting: [
                each_reason_is_told,
                the_first_reason_is_told,
                an_ended_message_waits_for_nothing,
            ]
            ownership: [
                takes_are_disjoint,
                a_take_leaves_what_needs_no_owner,
                a_renewal_tells_share_and_free,
                a_renewal_tells_what_changed,
                the_dead_are_buried_once,
                burials_at_once_report_a_worker_once,
                a_late_renewal_keeps_the_sessions,
                a_session_given_back_shows_what_it_is,
                only_ones_own_is_given_back,
                a_worker_leaves_with_nothing,
                reports_are_shown,
                one_worker_leads,
                a_taken_session_has_one_owner,
                a_logout_without_an_owner_ends_it,
            ]
            lists: [
                pages_are_stable_under_inserts,
                every_filter_gives_what_it_says,
                a_rare_match_is_found_in_bounded_pages,
                one_sees_ones_own_only,
                pages_end,
                sessions_are_listed,
            ]
            housekeeping: [
                due_messages_are_promoted_in_the_order_of_their_times,
                sweeps_go_in_chunks,
                the_sweep_leaves_what_is_under_way_to_its_living_owner,
                a_claim_wins_over_the_sweep,
                the_backlog_is_counted,
                a_deleted_session_is_drained,
                what_is_kept_no_longer_goes,
                a_removed_session_goes_with_its_last_message,
                what_was_never_sent_goes_and_what_stays_is_looked_at_once,
            ]
            files: [
                a_file_is_known_to_its_user,
                a_file_is_kept_for_its_messages,
                a_file_is_removed_unless_a_message_needs_it,
                a_file_is_removed_or_sent,
                a_users_files_have_only_so_many_bytes,
                a_file_that_nobody_needs_goes,
                files_go_in_chunks,
                a_kept_file_is_never_swept,
            ]
            people: [
                a_user_comes_with_a_session,
                a_username_is_given_once,
                changes_of_a_user_are_told,
                a_key_leads_to_its_owner,
                the_deployment_has_one_name,
            ]
            accounts: [
                a_user_is_made_as_asked,
                only_what_is_given_changes,
                users_are_listed,
                the_last_admin_stays,
                of_the_last_two_admins_one_stays,
                deleting_keeps_the_books,
                a_key_has_a_life,
                keys_are_listed,
            ]
            audit: [
                changes_have_their_lines,
                what_is_done_for_others_has_its_line,
                a_message_has_its_line_once,
                a_change_without_its_line_isnt_made,
                the_trail_is_listed,
                counts_add_up,
                the_trail_is_bounded,
            ]
            logins: [
                a_login_lives_until_it_is_ended,
                one_of_many_rotations_wins,
                a_refresh_token_is_good_once,
                a_login_needs_the_password_that_was_verified,
                a_new_password_ends_logins,
                wrong_attempts_wait_ever_longer,
                attempts_at_once_are_all_counted,
                an_address_that_tries_many_names_waits,
                failures_are_forgotten,
                addresses_of_logins_are_known,
            ]
            sessions: [
                a_session_name_is_given_once_per_user,
                a_user_has_only_so_many_sessions,
                a_pace_is_kept,
                commands_are_idempotent,
                a_connect_starts_what_is_down,
                a_disconnect_takes_effect_by_the_owner,
                a_deleted_session_is_gone,
                names_lead_to_ones_own_sessions,
            ]
        }
    };
    (@tests $module:ident $world:ident $($subject:ident: [$($promise:ident,)*])*) => {
        mod $module {
            $(mod $subject {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    let world = super::super::$world().await;
                    $crate::conformance::store::$subject::$promise(&world).await;
                })*
            })*
        }
    };
}

#[cfg(test)]
mod tests {
    /// Whoever adds a promise must have it run.
    #[test]
    fn the_suite_names_every_promise() {
        let suite = include_str!("mod.rs");
        let subjects = [
            ("accepting", include_str!("accepting.rs")),
            ("accounts", include_str!("accounts.rs")),
            ("audit", include_str!("audit.rs")),
            ("idempotency", include_str!("idempotency.rs")),
            ("quota", include_str!("quota.rs")),
            ("moves", include_str!("moves.rs")),
            ("pull", include_str!("pull.rs")),
            ("fence", include_str!("fence.rs")),
            ("doubt", include_str!("doubt.rs")),
            ("files", include_str!("files.rs")),
            ("events", include_str!("events.rs")),
            ("journal", include_str!("journal.rs")),
            ("receipts", include_str!("receipts.rs")),
            ("waiting", include_str!("waiting.rs")),
            ("ownership", include_str!("ownership.rs")),
            ("lists", include_str!("lists.rs")),
            ("logins", include_str!("logins.rs")),
            ("housekeeping", include_str!("housekeeping.rs")),
            ("people", include_str!("people.rs")),
            ("sessions", include_str!("sessions.rs")),
        ];
        for (subject, source) in subjects {
            assert!(suite.contains(&format!("{subject}: [")), "{subject}");
            for line in source.lines() {
                let promise = line.strip_prefix("pub async fn ").and_then(|rest| rest.split_once('('));
                let Some((promise, _)) = promise else { continue };
                assert!(suite.contains(&format!(" {promise},\n")), "{subject}::{promise} isn't in store_suite!");
            }
        }
    }
}
