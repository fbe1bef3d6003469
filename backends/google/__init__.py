"""Google Cloud: the registry, tracking, pipeline jobs and Gemini, on Vertex AI.

Terms of Google's documentation, and what they are for Gauntlet:

- Project: what is billed, and what permissions are granted on. Its id is `--project`.
- Location: a region such as `europe-west4`. Each region has its own API host, and jobs, models and schedules
  exist in one region only. `location.VertexLocation` is a project and a location.
- Service account: the identity that a job runs as. Your own account, or the one that submits, needs the
  permission `iam.serviceAccounts.actAs` on it.
- Application default credentials: the login that all clients use here, of
  `gcloud auth application-default login` or of the machine's service account.
- Pipeline job: one run of a compiled pipeline. The submitter chooses its id, so submitting it twice creates
  one job. A schedule creates pipeline jobs by a cron expression.
- Pipeline root: the `gs://` folder for the outputs of all steps. It is `--root`.
- Custom job: one step of a pipeline job, as it runs on machines: an image, a command, and a worker pool spec,
  which is a machine type, its accelerators and the number of replicas. Its log is in Cloud Logging.
- Persistent resource: machines that stay reserved between custom jobs. The price is for its lifetime.
- Spot and flex-start: cheaper machines that can be preempted, and machines that a job waits for.
- Model, version, alias: a model of the Model Registry has numbered versions, and an alias points to one of
  them. Gauntlet sets `champion`, `previous`, `challenger` and `staging`; Vertex AI itself sets `default`.
- Model evaluation: scores that the console shows with a version.
- Endpoint: the address that serves a model. Gemini creates one for each tuned model.
- Tuning job: supervised fine-tuning of a Gemini model. Google names it, so it is recognized by a label.
- Experiment, experiment run: a group of tracked runs, and a run with parameters and metrics. Both are
  contexts of Vertex ML Metadata; an artifact of a context points to a file or to a TensorBoard run.
- TensorBoard: a resource that stores curves. Its number is in the tracking URI.
- Staging bucket: the `gs://` folder, named in the registry's and the tracking URI, for bundles and files.
- Quota: a limit on what a project uses at a time, per region and per metric, such as the number of L4 GPUs.
- Container image: an image in Artifact Registry. Gauntlet names it by digest.

What is called when:

1. `gauntlet doctor` looks for APIs, buckets, repositories, service accounts and permissions (`rest`).
2. `gauntlet submit` checks permissions, roles, the bucket, quotas and images (`project`), reads the champion
   (`registry`), and creates a pipeline job (`jobs.PipelineJobs`). `gauntlet schedule` creates or updates
   schedules instead (`jobs.PipelineSchedules`).
3. `gauntlet status`, `logs` and `cancel` read the job and the logs of its custom jobs (`jobs`).
4. In the job, train-model tracks its run (`tracking`), or tunes Gemini by a tuning job (`gemini`).
5. evaluate-model fetches the champion's bundle from the bucket and scores it, or asks Gemini's endpoints.
6. register-model uploads the bundle, creates a version with a model evaluation, and moves the aliases
   (`registry`). `gauntlet promote` and `gauntlet rollback` move them later.

Every call has a time limit, is retried only where a retry is safe, and fails with one message that says what
to do (`calls`). Clients are imported at their first use, because that takes seconds.
"""
