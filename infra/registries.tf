resource "google_artifact_registry_repository" "needed" {
  for_each = local.needs.repositories

  location      = var.region
  repository_id = each.value.id
  format        = each.value.format
  description   = "Gauntlet: ${each.key}"

  # A template names its images by digest, so the images of recent builds stay whether they have a tag or not.
  dynamic "cleanup_policies" {
    for_each = each.value.format == "DOCKER" ? ["delete"] : []
    content {
      id     = "delete-old"
      action = "DELETE"
      condition {
        tag_state  = "ANY"
        older_than = "15552000s" # 180 days
      }
    }
  }

  dynamic "cleanup_policies" {
    for_each = each.value.format == "DOCKER" ? ["keep"] : []
    content {
      id     = "keep-recent"
      action = "KEEP"
      most_recent_versions {
        keep_count = 20
      }
    }
  }

  depends_on = [google_project_service.needed]
}
