# Data is read by runs and written by people. Runs holds what pipelines make: the folder of a registered model
# is in there, so nothing current is deleted by age.
resource "google_storage_bucket" "needed" {
  for_each = local.needs.buckets

  name     = replace(each.value, "PROJECT", var.project)
  location = var.region

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 30
      with_state                 = "ARCHIVED"
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      age            = 90
      matches_prefix = each.key == "runs" ? ["runs/"] : [] # not the registry, which each run reads
    }
    action {
      type          = "SetStorageClass"
      storage_class = "NEARLINE"
    }
  }

  lifecycle_rule {
    condition {
      age = 7
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }

  depends_on = [google_project_service.needed]
}
