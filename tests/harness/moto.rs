//! A server that speaks S3: moto, of PyPI, in a Python that `SANASR_TEST_PYTHON` names.

use super::folder::Folder;
use super::process::{Launch, Process};

/// A server of a test's own, with one bucket. It ends with its owner.
#[derive(Debug)]
pub(crate) struct Moto {
    process: Process,
    origin: String,
    _folder: Folder,
}

impl Moto {
    /// The bucket that it has.
    pub(crate) const BUCKET: &str = "files";

    pub(crate) async fn start() -> Self {
        let python = std::env::var("SANASR_TEST_PYTHON").unwrap_or_else(|_| {
            panic!("SANASR_TEST_PYTHON isn't set: this test needs a Python with moto[server]; `tests/run` provides it.")
        });
        let folder = Folder::new("moto");
        let launch = Launch::program("moto", &python, folder.path());
        let mut process = launch.args(&["-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]).spawn();
        let origin = process.address().await;
        let moto = Self { process, origin, _folder: folder };
        let made = moto.http().put(format!("{}/{}", moto.origin, Self::BUCKET)).send().await.expect("an answer");
        assert!(made.status().is_success(), "{made:?}");
        moto
    }

    /// Settings that have files kept there.
    pub(crate) fn settings(&self) -> [(&'static str, String); 4] {
        [
            ("SANASR_MEDIA_URL", format!("s3://{}/a/folder", Self::BUCKET)),
            ("AWS_ENDPOINT_URL", self.origin.clone()),
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ]
    }

    /// The sizes of the objects that it has.
    pub(crate) async fn sizes(&self) -> Vec<u64> {
        let list = format!("{}/{}?list-type=2", self.origin, Self::BUCKET);
        let text = self.http().get(list).send().await.expect("an answer").text().await.expect("a list");
        let sizes = text.split("<Size>").skip(1).filter_map(|rest| rest.split('<').next()?.parse().ok());
        sizes.collect()
    }

    /// Ends it at once.
    pub(crate) async fn kill(&mut self) {
        self.process.kill().await;
    }

    fn http(&self) -> reqwest::Client {
        super::client::http()
    }
}
