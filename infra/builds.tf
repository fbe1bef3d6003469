locals {
  registry            = "${var.region}-docker.pkg.dev/${var.project}"
  image_repository    = "${local.registry}/${google_artifact_registry_repository.needed["images"].repository_id}"
  template_repository = "https://${var.region}-kfp.pkg.dev/${var.project}/${google_artifact_registry_repository.needed["templates"].repository_id}"
  pipeline_root       = "gs://${google_storage_bucket.needed["runs"].name}/runs"
  model_registry      = var.registry != "" ? var.registry : "vertex://${var.project}/${var.region}?staging=gs://${google_storage_bucket.needed["runs"].name}/registry"
  builds              = var.repository == "" ? 0 : 1
}

resource "google_cloudbuild_trigger" "merge" {
  count = local.builds

  name            = "gauntlet-merge"
  description     = "What cloudbuild.yaml does, for every push to main"
  location        = split("/", var.repository)[3]
  filename        = "cloudbuild.yaml"
  service_account = google_service_account.needed["build"].id

  repository_event_config {
    repository = var.repository
    push {
      branch = "^main$"
    }
  }

  substitutions = {
    _IMAGE_REPOSITORY    = local.image_repository
    _TEMPLATE_REPOSITORY = local.template_repository
    _TORCH_INDEX_URL     = var.torch_index_url
    _DOCKER_HUB          = var.docker_hub
    _EXTRA_PACKAGES      = var.extra_packages
    _REGION              = var.region
    _ROOT                = local.pipeline_root
    _REGISTRY            = local.model_registry
    _SERVICE_ACCOUNT     = google_service_account.needed["release"].email
    _TRAINING_ACCOUNT    = google_service_account.needed["training"].email
  }
}

resource "google_cloudbuild_trigger" "pull_request" {
  count = local.builds

  name            = "gauntlet-pull-request"
  description     = "What cloudbuild.pr.yaml does, for every pull request"
  location        = split("/", var.repository)[3]
  filename        = "cloudbuild.pr.yaml"
  service_account = google_service_account.check.id

  repository_event_config {
    repository = var.repository
    pull_request {
      branch          = "^main$"
      comment_control = "COMMENTS_ENABLED_FOR_EXTERNAL_CONTRIBUTORS_ONLY"
    }
  }

  substitutions = {
    _TORCH_INDEX_URL = var.torch_index_url
    _DOCKER_HUB      = var.docker_hub
  }
}
