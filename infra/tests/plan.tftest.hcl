# What Terraform would make, said by a provider that makes nothing.
mock_provider "google" {
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
}

mock_provider "google-beta" {
  mock_resource "google_project_service_identity" {
    defaults = { member = "serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com" }
  }
}

variables {
  project = "demo-project"
  region  = "europe-west4"
}

run "project_and_region_are_enough" {
  command = plan

  assert {
    condition     = toset([for bucket in google_storage_bucket.needed : bucket.name]) == toset(["demo-project-gauntlet-runs", "demo-project-gauntlet-data"])
    error_message = "The buckets are named otherwise."
  }

  assert {
    condition     = alltrue([for bucket in google_storage_bucket.needed : bucket.versioning[0].enabled && bucket.public_access_prevention == "enforced"])
    error_message = "A bucket keeps no versions, or may be made public."
  }

  assert {
    condition     = length(google_cloudbuild_trigger.merge) + length(google_cloud_run_v2_service.receiver) + length(google_billing_budget.monthly) == 0
    error_message = "Something was made that nobody asked for."
  }

  assert {
    condition     = sum([for made in [google_project_iam_member.needed, google_storage_bucket_iam_member.needed, google_artifact_registry_repository_iam_member.needed, google_service_account_iam_member.needed] : length(made)]) == length(distinct([for grant in local.needs.grants : "${grant.who} on ${grant.target}: ${try(grant.role, "own")}" if grant.who != "submitter"]))
    error_message = "Something that is needed is granted by nothing."
  }

  assert {
    condition     = output.environment.GAUNTLET_ROOT == "gs://demo-project-gauntlet-runs/runs"
    error_message = "Runs are written elsewhere."
  }

  assert {
    condition     = contains([for grant in local.needs.grants : "${grant.who} on ${grant.target}"], "release on training") && contains(keys(output.environment), "GAUNTLET_TRAINING_ACCOUNT")
    error_message = "Pipelines may not have training run as its own account."
  }
}

run "training_reads_data_writes_runs_and_changes_no_model" {
  command = plan

  assert {
    condition     = [for grant in google_storage_bucket_iam_member.needed : grant.role if startswith(grant.bucket, "demo-project-gauntlet-data")] == ["roles/storage.objectViewer", "roles/storage.objectViewer"]
    error_message = "Somebody may change the data."
  }

  assert {
    condition     = length([for permission in google_project_iam_custom_role.own["training"].permissions : permission if strcontains(permission, ".models.") || strcontains(permission, "Jobs.")]) == 0
    error_message = "Training may register models, or start jobs."
  }
}

run "versions_are_deployed_by_releases_and_run_as_an_account_that_only_reads" {
  command = plan

  variables {
    deployment_targets = ["cloud_run", "vertex_endpoint"]
  }

  assert {
    condition     = toset([for key, grant in google_project_iam_member.needed : grant.role if startswith(key, "release on ")]) == toset(["roles/aiplatform.user", "roles/logging.logWriter", "roles/monitoring.viewer", "roles/run.developer", "roles/run.invoker"])
    error_message = "Releases may do more or less than deploying takes."
  }

  assert {
    condition     = toset([for key, grant in merge(google_storage_bucket_iam_member.needed, google_project_iam_member.needed) : grant.role if startswith(key, "serving on ")]) == toset(["roles/logging.logWriter", "roles/storage.objectViewer"])
    error_message = "A served model may do more than read its bundle and write its log."
  }
}

run "all_that_can_be_asked_for" {
  command = apply

  variables {
    submitters       = ["group:ml@example.com", "user:ann@example.com"]
    repository       = "projects/demo-project/locations/europe-west1/connections/github/repositories/gauntlet"
    registry         = "vertex://demo-project/europe-west4?staging=gs://models/emotion"
    torch_index_url  = "https://index.example/cpu"
    docker_hub       = "registry.example/demo-project/docker-hub/"
    serving_image    = "registry.example/serving@sha256:1111111111111111111111111111111111111111111111111111111111111111"
    receiver_image   = "registry.example/components@sha256:0000000000000000000000000000000000000000000000000000000000000000"
    billing_account  = "012345-ABCDEF-012345"
    alert_emails     = ["ml@example.com"]
    scheduled_events = { weekly = { cron = "0 2 * * 0", event = "{\"kind\": \"schedule\"}" } }
  }

  assert {
    condition     = google_cloudbuild_trigger.merge[0].location == "europe-west1" && google_cloudbuild_trigger.merge[0].filename == "cloudbuild.yaml"
    error_message = "The trigger is not where the connection is, or builds something else."
  }

  assert {
    condition     = google_cloudbuild_trigger.merge[0].substitutions["_REGISTRY"] == var.registry
    error_message = "Builds register models elsewhere than was asked for."
  }

  assert {
    condition     = output.environment.GAUNTLET_SERVING_IMAGE == var.serving_image && contains([for env in google_cloud_run_v2_service.receiver[0].template[0].containers[0].env : env.value if env.name == "GAUNTLET_SERVING_IMAGE"], var.serving_image)
    error_message = "People or the receiver register versions without the container that was asked for."
  }

  assert {
    condition     = toset([for grant in google_service_account_iam_member.needed : grant.member if startswith(grant.member, "user:") || startswith(grant.member, "group:")]) == var.submitters
    error_message = "Not every submitter may let runs act as the account of releases."
  }

  assert {
    condition     = base64decode(google_cloud_scheduler_job.events["weekly"].pubsub_target[0].data) == "{\"kind\": \"schedule\"}"
    error_message = "The scheduler publishes another event."
  }

  assert {
    condition     = google_pubsub_subscription.receiver[0].dead_letter_policy[0].max_delivery_attempts == 5
    error_message = "An event that cannot be received is delivered for ever."
  }

  assert {
    condition     = google_billing_budget.monthly[0].budget_filter[0].projects == tolist(["projects/123456789012"])
    error_message = "The budget is of other projects too."
  }
}

run "what_is_no_project_region_member_repository_digest_event_account_amount_or_address_is_refused" {
  command = plan

  variables {
    project            = "123456789012"
    region             = "europe-west4-a"
    submitters         = ["allUsers"]
    deployment_targets = ["local"]
    repository         = "https://example.com/gauntlet.git"
    registry           = "sqlite:////gcs/bucket/gauntlet.db"
    docker_hub         = "registry.example/demo-project/docker-hub"
    serving_image      = "registry.example/serving:latest"
    receiver_image     = "registry.example/components:latest"
    scheduled_events   = { weekly = { cron = "weekly", event = "{}" } }
    billing_account    = "mine"
    monthly_budget     = 0.5
    alert_emails       = ["ml"]
  }

  expect_failures = [
    var.project, var.region, var.submitters, var.deployment_targets, var.repository, var.registry, var.docker_hub,
    var.receiver_image, var.serving_image, var.scheduled_events,
    var.billing_account, var.monthly_budget, var.alert_emails,
  ]
}

run "without_a_registry_of_ones_own_models_are_registered_in_the_project" {
  command = apply

  variables {
    repository      = "projects/demo-project/locations/europe-west1/connections/github/repositories/gauntlet"
    torch_index_url = "https://index.example/cpu"
  }

  assert {
    condition     = output.environment.GAUNTLET_REGISTRY == "vertex://${var.project}/${var.region}?staging=gs://${google_storage_bucket.needed["runs"].name}/registry"
    error_message = "No registry that a run could be submitted with."
  }

  assert {
    condition     = google_cloudbuild_trigger.merge[0].substitutions["_REGISTRY"] == output.environment.GAUNTLET_REGISTRY
    error_message = "Builds register models elsewhere than people do."
  }
}

run "builds_without_an_index_for_torch_are_refused" {
  command = plan

  variables {
    repository = "projects/demo-project/locations/europe-west1/connections/github/repositories/gauntlet"
  }

  expect_failures = [var.torch_index_url]
}
