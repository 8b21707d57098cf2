//! One balancer at a time (HDFS's `/system/balancer.id`): a file that the running one holds open.

use anyhow::Result;
use hadal_client::{
    AppendOptions, ClientError, CreateOptions, Dfs, DfsOutputStream, FaultClass, TokioSeam,
};

/// The file.
const PATH: &str = "/system/balancer.id";

/// Held for as long as a balancer runs.
pub(super) struct Lock {
    dfs: Dfs,
    file: DfsOutputStream<TokioSeam>,
}

fn class(error: &ClientError) -> Option<FaultClass> {
    error.class()
}

impl Lock {
    /// Takes it; `None` when another balancer has it. What one left that was killed is taken over once its lease is past
    /// the soft limit.
    pub(super) async fn take(dfs: &Dfs) -> Result<Option<Self>> {
        if dfs.try_file_status(PATH).await?.is_some() {
            match dfs.append(PATH, &AppendOptions::default()).await {
                Ok(mut left) => {
                    left.close().await?;
                    dfs.delete(PATH, false).await?;
                }
                Err(error) if class(&error) == Some(FaultClass::AlreadyBeingCreated) => {
                    return Ok(None);
                }
                // It ended just now.
                Err(error) if class(&error) == Some(FaultClass::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match dfs.create(PATH, &CreateOptions::default()).await {
            Ok(file) => Ok(Some(Self {
                dfs: dfs.clone(),
                file,
            })),
            Err(error)
                if matches!(
                    class(&error),
                    Some(FaultClass::AlreadyBeingCreated | FaultClass::AlreadyExists)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives it back.
    pub(super) async fn release(self) -> Result<()> {
        self.dfs.delete(PATH, false).await?;
        drop(self.file);
        Ok(())
    }
}
