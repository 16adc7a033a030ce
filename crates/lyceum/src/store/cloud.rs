//! Opening buckets with the credentials each service's tools keep, in variables and files.
//!
//! Variables are those of the session. What `object_store` looks up by itself (the credentials of
//! the machine, gcloud's files, the emulator of Azure) it finds in the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use object_store::StaticCredentialProvider;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey};

use super::remote::{Remote, client, retries};
use super::remote_error::Login;
use super::{Address, Session, runtime};
use crate::error::{Error, Result};

const AWS: Login = Login {
    how: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or the profile \
          that AWS_PROFILE names in ~/.aws/credentials",
};
const AZURE: Login = Login {
    how: "set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_STORAGE_CONNECTION_STRING \
          or AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID",
};
const GOOGLE: Login = Login {
    how: "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
};
/// The account that Azure's emulators have.
const EMULATOR: &str = "devstoreaccount1";

/// The bucket or container at `address`; `None` for addresses of other kinds.
///
/// # Errors
/// When what is configured cannot be used.
pub(super) fn open(address: &Address, session: &Session) -> Result<Option<Remote>> {
    runtime::ready()?;
    let uri = address.to_string();
    let remote = match address {
        Address::S3 { bucket, prefix } => Remote::new(uri, prefix, s3(bucket, session)?, AWS),
        Address::Azure {
            account,
            container,
            prefix,
        } => Remote::new(uri, prefix, azure(account, container, session)?, AZURE),
        Address::Google { bucket, prefix } => {
            Remote::new(uri, prefix, google(bucket, session)?, GOOGLE)
        }
        _ => return Ok(None),
    };
    Ok(Some(remote))
}

type Bucket = Arc<dyn object_store::ObjectStore>;

/// The error for unusable settings. The crate's own message may repeat them, so it is dropped.
fn unusable(world: &str, login: Login) -> Error {
    Error::invalid(format!(
        "the settings for {world} in the environment cannot be used; {}",
        login.how
    ))
}

fn plain(endpoint: Option<String>) -> bool {
    endpoint.is_some_and(|url| url.starts_with("http://"))
}

/// The settings among the variables of `session` that begin with `prefix`.
fn settings<K: FromStr>(session: &Session, prefix: &str) -> Vec<(K, String)> {
    let key = |name: &str| name.to_ascii_lowercase().parse().ok();
    let vars = session.vars(prefix);
    vars.filter_map(|(name, value)| Some((key(name)?, value.to_owned())))
        .collect()
}

fn s3(bucket: &str, session: &Session) -> Result<Bucket> {
    let mut builder = AmazonS3Builder::new().with_bucket_name(bucket);
    for (key, value) in settings(session, "AWS_") {
        builder = builder.with_config(key, value);
    }
    let set = |builder: &AmazonS3Builder, key| builder.get_config_value(&key).is_some();
    for (key, value) in profile(session)? {
        let key = match key.as_str() {
            "aws_access_key_id" => AmazonS3ConfigKey::AccessKeyId,
            "aws_secret_access_key" => AmazonS3ConfigKey::SecretAccessKey,
            "aws_session_token" => AmazonS3ConfigKey::Token,
            "region" => AmazonS3ConfigKey::Region,
            "endpoint_url" => AmazonS3ConfigKey::Endpoint,
            _ => continue,
        };
        // The environment goes before files.
        if !set(&builder, key) {
            builder = builder.with_config(key, value);
        }
    }
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let built = builder
        .with_client_options(client(plain(endpoint)))
        .with_retry(retries())
        // Deleting in bulk is not offered everywhere.
        .with_disable_bulk_delete(true)
        .build();
    Ok(Arc::new(built.map_err(|_| unusable("S3", AWS))?))
}

/// The settings of the profile in use: keys of `~/.aws/credentials` and `~/.aws/config`. Empty
/// when the variables have keys of their own.
fn profile(session: &Session) -> Result<BTreeMap<String, String>> {
    let var = |name: &str| session.var(name);
    if var("AWS_ACCESS_KEY_ID").is_some() {
        return Ok(BTreeMap::new());
    }
    let named = var("AWS_PROFILE").or_else(|| var("AWS_DEFAULT_PROFILE"));
    let name = named.unwrap_or("default");
    let file = |variable: &str, usual: &str| {
        let own = || Some(session.home()?.join(".aws").join(usual));
        let path = var(variable).map(PathBuf::from).or_else(own);
        let text = path.and_then(|path| std::fs::read_to_string(path).ok());
        section(&text.unwrap_or_default(), name)
    };
    let mut found = file("AWS_CONFIG_FILE", "config");
    found.extend(file("AWS_SHARED_CREDENTIALS_FILE", "credentials"));
    let keys = found.contains_key("aws_access_key_id");
    let other = [
        "sso_session",
        "sso_start_url",
        "role_arn",
        "credential_process",
    ];
    let other = other.iter().find(|key| found.contains_key(**key));
    match (keys, other) {
        (false, Some(other)) => Err(Error::invalid(format!(
            "profile `{name}` gets its keys by {other}, which is not read here; put them into the \
             environment: eval \"$(aws configure export-credentials --profile {name} --format env)\""
        ))),
        (false, None) if named.is_some() => Err(Error::invalid(format!(
            "AWS_PROFILE names `{name}`, which has no keys in ~/.aws/credentials"
        ))),
        _ => Ok(found),
    }
}

/// The keys and values under `[name]` or `[profile name]`.
fn section(text: &str, name: &str) -> BTreeMap<String, String> {
    let mut inside = false;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            let head = head.trim();
            inside = head.strip_prefix("profile ").unwrap_or(head).trim() == name;
        } else if inside
            && !line.starts_with(['#', ';'])
            && let Some((key, value)) = line.split_once('=')
        {
            found.insert(key.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    found
}

fn azure(account: &str, container: &str, session: &Session) -> Result<Bucket> {
    let mut builder = MicrosoftAzureBuilder::new();
    for (key, value) in settings(session, "AZURE_") {
        builder = builder.with_config(key, value);
    }
    if let Some(endpoint) = session.var("IDENTITY_ENDPOINT") {
        builder = builder.with_msi_endpoint(endpoint);
    }
    if let Some(text) = session.var("AZURE_STORAGE_CONNECTION_STRING") {
        for (key, value) in connection(text) {
            builder = builder.with_config(key, value);
        }
    }
    // The address says which account; a key of another one is refused by the server.
    builder = builder.with_account(account).with_container_name(container);
    let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
    if account == EMULATOR && endpoint.is_none() {
        builder = builder.with_use_emulator(true);
    }
    let built = builder
        .with_client_options(client(plain(endpoint)))
        .with_retry(retries())
        .build();
    Ok(Arc::new(built.map_err(|_| unusable("Azure", AZURE))?))
}

/// Parses an Azure connection string.
fn connection(text: &str) -> Vec<(AzureConfigKey, String)> {
    let pairs: BTreeMap<&str, &str> = { text.split(';') }
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    let mut found = Vec::new();
    let mut take = |name: &str, key| {
        if let Some(value) = pairs.get(name) {
            found.push((key, (*value).to_owned()));
        }
    };
    take("AccountKey", AzureConfigKey::AccessKey);
    take("SharedAccessSignature", AzureConfigKey::SasKey);
    take("BlobEndpoint", AzureConfigKey::Endpoint);
    if let (None, Some(account), Some(suffix)) = (
        pairs.get("BlobEndpoint"),
        pairs.get("AccountName"),
        pairs.get("EndpointSuffix"),
    ) {
        let scheme = pairs.get("DefaultEndpointsProtocol").unwrap_or(&"https");
        let url = format!("{scheme}://{account}.blob.{suffix}");
        found.push((AzureConfigKey::Endpoint, url));
    }
    found
}

fn google(bucket: &str, session: &Session) -> Result<Bucket> {
    let mut builder = GoogleCloudStorageBuilder::new().with_bucket_name(bucket);
    if let Some(path) = session.var("SERVICE_ACCOUNT") {
        builder = builder.with_service_account_path(path);
    }
    for (key, value) in settings(session, "GOOGLE_") {
        builder = builder.with_config(key, value);
    }
    // By this Google's own tools find an emulator, which asks for no credentials.
    if let Some(emulator) = session.var("STORAGE_EMULATOR_HOST") {
        let url = match emulator.contains("://") {
            true => emulator.to_owned(),
            false => format!("http://{emulator}"),
        };
        // The crate asks for credentials even where it is told to sign nothing.
        let bearer = String::new();
        let nobody = StaticCredentialProvider::new(GcpCredential { bearer });
        builder = builder
            .with_base_url(url.trim_end_matches('/'))
            .with_credentials(Arc::new(nobody));
    }
    let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    let built = builder
        .with_client_options(client(plain(endpoint)))
        .with_retry(retries())
        .build();
    Ok(Arc::new(
        built.map_err(|_| unusable("Google Cloud Storage", GOOGLE))?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_in_either_kind_of_file() {
        let text = "[default]\naws_access_key_id = A\n# aws_session_token = no\n\
                    [profile lab]\nregion=eu-west-1\nAWS_Secret_Access_Key = s=/+\n";
        assert_eq!(section(text, "default").len(), 1);
        let lab = section(text, "lab");
        assert_eq!(
            (&*lab["region"], &*lab["aws_secret_access_key"]),
            ("eu-west-1", "s=/+")
        );
        assert!(section(text, "none").is_empty());
    }

    #[test]
    fn a_connection_string_says_key_and_endpoint() {
        let text = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=k==;\
                    EndpointSuffix=core.windows.net";
        let found = connection(text);
        assert_eq!(found[0], (AzureConfigKey::AccessKey, "k==".into()));
        assert_eq!(found[1].1, "https://a.blob.core.windows.net");
        let text = "AccountName=a;BlobEndpoint=http://127.0.0.1:1/a;EndpointSuffix=x";
        assert_eq!(connection(text).len(), 1);
    }
}
