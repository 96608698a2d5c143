//! Tokens: JSON Web Tokens signed with HMAC-SHA256, each kind with a key of its own.
//!
//! The JWT library gets a provider of ours that knows this one algorithm, so that nothing signed in any other way, or not
//! at all, can even be looked at.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, new_error};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use sanasr_shared::ids::{FamilyId, UserId};
use sanasr_shared::secret::SecretKey;
use sanasr_shared::settings::TokenSettings;
use sanasr_shared::time::Time;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// How far the clocks of two processes may differ: a token made later than that is made up.
const SKEW_S: u64 = 5;

/// Which login a token belongs to, not whether it still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) user: UserId,
    pub(crate) family: FamilyId,
    /// When the password was given, to the second.
    pub(crate) since: Time,
    /// Of a refresh token; 0 in others.
    pub(crate) generation: i64,
}

/// What a genuine token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claimed {
    pub(crate) login: Granted,
    /// When the token ends.
    pub(crate) until: Time,
}

/// Makes and reads this deployment's tokens.
pub(crate) struct Tokens {
    issuer: String,
    /// How long a login lasts, however often it is refreshed.
    login_life: Duration,
    access: Kind,
    refresh: Kind,
}

struct Kind {
    word: &'static str,
    life: Duration,
    signing: EncodingKey,
    verifying: DecodingKey,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    fam: FamilyId,
    #[serde(rename = "gen", default, skip_serializing_if = "is_zero")]
    generation: i64,
    typ: String,
    auth_time: u64,
    iat: u64,
    exp: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

impl Tokens {
    pub(crate) fn new(issuer: &str, secret: &SecretKey, settings: &TokenSettings) -> Self {
        // The same for every caller: whoever comes second finds it there.
        let _ = HS256_ONLY.install_default();
        let kind = |word, purpose, life| {
            let key = secret.derive(purpose);
            Kind { word, life, signing: EncodingKey::from_secret(&key), verifying: DecodingKey::from_secret(&key) }
        };
        Self {
            issuer: issuer.to_owned(),
            login_life: settings.login_life,
            access: kind("access", "access token v1", settings.access_token_life),
            refresh: kind("refresh", "refresh token v1", settings.refresh_token_life),
        }
    }

    /// How long a login that began then lives on without another refresh; `None` if it has reached its greatest age.
    pub(crate) fn life_left(&self, since: Time) -> Option<Duration> {
        let left = since.plus(self.login_life).since(Time::now());
        (!left.is_zero()).then_some(left.min(self.refresh.life))
    }

    /// An access token of a login, and how long it is good for: not beyond the login's greatest age.
    ///
    /// # Errors
    /// A defect.
    pub(crate) fn access(&self, login: Granted) -> Result<(String, Duration), String> {
        let life = self.life_left(login.since).unwrap_or_default().min(self.access.life);
        Ok((self.sign(&self.access, Granted { generation: 0, ..login }, life)?, life))
    }

    /// A refresh token of a login. It may outlive the login: so that one which comes too late is told why.
    ///
    /// # Errors
    /// A defect.
    pub(crate) fn refresh(&self, login: Granted) -> Result<String, String> {
        self.sign(&self.refresh, login, self.refresh.life)
    }

    /// What a genuine access token says that is good now.
    pub(crate) fn read_access(&self, token: &str) -> Result<Claimed, Unreadable> {
        self.read(&self.access, token)
    }

    /// What a genuine refresh token says that is good now.
    pub(crate) fn read_refresh(&self, token: &str) -> Option<Claimed> {
        self.read(&self.refresh, token).ok()
    }

    fn sign(&self, kind: &Kind, login: Granted, life: Duration) -> Result<String, String> {
        let iat = now_s();
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: login.user.to_string(),
            fam: login.family,
            generation: login.generation,
            typ: kind.word.to_owned(),
            auth_time: seconds(login.since),
            iat,
            // A life of less than a second is one all the same.
            exp: iat + life.as_secs().max(1),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &kind.signing).map_err(|e| e.to_string())
    }

    fn read(&self, kind: &Kind, token: &str) -> Result<Claimed, Unreadable> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        // The signature is looked at first: only a genuine token is called expired.
        let decoded =
            jsonwebtoken::decode::<Claims>(token, &kind.verifying, &validation).map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature => Unreadable::Expired,
                _ => Unreadable::Unknown,
            });
        Self::checked(kind, decoded?.claims).ok_or(Unreadable::Unknown)
    }

    fn checked(kind: &Kind, claims: Claims) -> Option<Claimed> {
        let user = claims.sub.parse().ok().map(UserId)?;
        let genuine = claims.typ == kind.word && claims.iat <= now_s() + SKEW_S;
        let (since, until) = (time(claims.auth_time)?, time(claims.exp)?);
        let login = Granted { user, family: claims.fam, since, generation: claims.generation };
        genuine.then_some(Claimed { login, until })
    }
}

/// Why a token says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is genuine, but its time is over.
    Expired,
    /// It isn't one of ours.
    Unknown,
}

fn seconds(time: Time) -> u64 {
    u64::try_from(time.0 / 1_000).unwrap_or(0)
}

fn time(seconds: u64) -> Option<Time> {
    i64::try_from(seconds).ok()?.checked_mul(1_000).map(Time)
}

fn now_s() -> u64 {
    seconds(Time::now())
}

/// HMAC-SHA256 and nothing else.
static HS256_ONLY: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(Hs256::new(*algorithm, key.as_bytes())?)),
    verifier_factory: |algorithm, key| Ok(Box::new(Hs256::new(*algorithm, key.try_get_as_bytes()?)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

struct Hs256(Hmac<Sha256>);

impl Hs256 {
    fn new(algorithm: Algorithm, key: &[u8]) -> jsonwebtoken::errors::Result<Self> {
        if algorithm != Algorithm::HS256 {
            return Err(new_error(ErrorKind::UnsupportedAlgorithm));
        }
        Hmac::new_from_slice(key).map(Self).map_err(|_| new_error(ErrorKind::InvalidKeyFormat))
    }

    fn over(&self, message: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(message);
        mac
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.over(message).finalize().into_bytes().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    /// In a time that doesn't depend on where the two differ.
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.over(message).verify_slice(signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use sanasr_shared::settings::defaults;
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "a secret of tests, never of anything else";
    /// A login that began now.
    fn login() -> Granted {
        let family = FamilyId(uuid::Uuid::from_u128(5));
        Granted { user: UserId(7), family, since: Time(Time::now().0 / 1_000 * 1_000), generation: 0 }
    }

    fn tokens() -> Tokens {
        Tokens::new("here", &SecretKey::new(SECRET), &defaults())
    }

    /// A token with any header and claims, signed by hand.
    fn signed(key: &[u8], header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key");
        mac.update(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    fn claims(more: Value) -> Value {
        let mut claims = json!({"iss": "here", "sub": "7", "fam": login().family, "typ": "access",
            "auth_time": 1_000, "iat": now_s(), "exp": now_s() + 60});
        for (name, value) in more.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        claims
    }

    #[test]
    fn a_token_is_read_back_as_its_own_kind_only() {
        let tokens = tokens();
        let login = login();
        let (access, life) = tokens.access(login).expect("a token");
        let later = Granted { generation: 3, ..login };
        let refresh = tokens.refresh(later).expect("a token");
        assert_eq!(life, Duration::from_secs(900));
        let claimed = tokens.read_access(&access).expect("good");
        assert_eq!(claimed.login, login);
        assert!(claimed.until > login.since.plus(Duration::from_secs(890)), "{claimed:?}");
        assert_eq!(tokens.read_refresh(&refresh).expect("good").login, later);
        assert_eq!(tokens.read_access(&refresh), Err(Unreadable::Unknown));
        assert_eq!(tokens.read_refresh(&access), None);
    }

    #[test]
    fn a_login_has_a_greatest_age() {
        let day = Duration::from_secs(86_400);
        let tokens = tokens();
        let began = |before: Duration| Time(Time::now().0 - i64::try_from(before.as_millis()).expect("small"));
        assert_eq!(tokens.life_left(began(Duration::ZERO)), Some(7 * day));
        let last = tokens.life_left(began(30 * day - Duration::from_secs(60))).expect("a minute");
        assert!(last <= Duration::from_secs(60) && last > Duration::from_secs(50), "{last:?}");
        let (_, life) =
            tokens.access(Granted { since: began(30 * day - Duration::from_secs(60)), ..login() }).expect("a token");
        assert!(life <= Duration::from_secs(60), "{life:?}");
        assert_eq!(tokens.life_left(began(30 * day)), None);
    }

    #[test]
    fn what_is_forged_is_nothing() {
        let tokens = tokens();
        let access = SecretKey::new(SECRET).derive("access token v1");
        let refresh = SecretKey::new(SECRET).derive("refresh token v1");
        let hs256 = json!({"alg": "HS256", "typ": "JWT"});
        let read = |token: &str| tokens.read_access(token).map(|claimed| (claimed.login.user, claimed.login.family));
        let unknown = Err(Unreadable::Unknown);
        let good = Ok((login().user, login().family));
        assert_eq!(read(&signed(&access, &hs256, &claims(json!({})))), good);

        // Another key, an old one among them.
        assert_eq!(read(&signed(&refresh, &hs256, &claims(json!({})))), unknown);
        let old = SecretKey::new("the secret of last year, never of now").derive("access token v1");
        assert_eq!(read(&signed(&old, &hs256, &claims(json!({})))), unknown);
        assert_eq!(read(&signed(b"", &hs256, &claims(json!({})))), unknown);
        // Another algorithm, or none.
        for alg in ["none", "None", "HS384", "HS512", "RS256", "ES256", "EdDSA", "HS256 ", ""] {
            let token = signed(&access, &json!({"alg": alg}), &claims(json!({})));
            assert_eq!(read(&token), unknown, "{alg}");
            let bare = token.rsplit_once('.').expect("three parts").0;
            assert_eq!(read(&format!("{bare}.")), unknown, "{alg}");
            assert_eq!(read(bare), unknown, "{alg}");
        }
        // Other claims.
        for wrong in [
            json!({"exp": null}),
            json!({"iat": now_s() + SKEW_S + 3}),
            json!({"iat": -1}),
            json!({"iat": u64::MAX}),
            json!({"iss": "there"}),
            json!({"iss": null}),
            json!({"typ": "refresh"}),
            json!({"typ": null}),
            json!({"sub": 7}),
            json!({"sub": "seven"}),
            json!({"fam": "x"}),
            json!({"aud": "others"}),
            json!({"auth_time": null}),
            json!({"auth_time": u64::MAX}),
        ] {
            assert_eq!(read(&signed(&access, &hs256, &claims(wrong.clone()))), unknown, "{wrong}");
        }
        assert_eq!(read(&signed(&access, &hs256, &claims(json!({"exp": now_s() - 1})))), Err(Unreadable::Expired));
        assert_eq!(read(&signed(&refresh, &hs256, &claims(json!({"exp": now_s() - 1})))), unknown);
        // What is no token.
        for text in ["", ".", "..", "...", "a.b.c", "ä.ö.ü", &"a".repeat(10_000)] {
            assert_eq!(read(text), unknown, "{text}");
        }
        // A clock that is a little ahead is no forger.
        assert_eq!(read(&signed(&access, &hs256, &claims(json!({"iat": now_s() + 3})))), good);
    }
}
