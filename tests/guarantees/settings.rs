//! What is written about the settings is what the binary has.

use std::process::Command;

#[test]
fn the_env_template_names_every_setting() {
    let made = Command::new(env!("CARGO_BIN_EXE_sanasr")).arg("env-template").output().expect("the binary runs");
    assert!(made.status.success());
    let made = String::from_utf8(made.stdout).expect("text");
    let kept = include_str!("../../deploy/env.template");
    assert_eq!(made, kept, "make it anew: cargo run -- env-template > deploy/env.template");
    for name in ["DATABASE_URL", "AMQP_URL", "REDIS_URL", "SANASR_SECRET_KEY", "SANASR_LISTEN", "SANASR_LEASE"] {
        assert!(kept.contains(&format!("\n#{name}=")), "{name}");
    }
}
