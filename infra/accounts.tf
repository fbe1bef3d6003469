# None has a key: whoever needs one of them acts as it.
resource "google_service_account" "needed" {
  for_each = local.accounts

  account_id   = each.value.id
  display_name = "Gauntlet: ${each.key}"
  description  = each.value.purpose
  depends_on   = [google_project_service.needed]
}

# Tests of a pull request are code that nobody has read yet: they may write their log and nothing else.
resource "google_service_account" "check" {
  account_id   = "gauntlet-check"
  display_name = "Gauntlet: checks of pull requests"
  depends_on   = [google_project_service.needed]
}

resource "google_project_iam_member" "check" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.check.member
}

# Pub/Sub calls the receiver as this account, which may do that and nothing else.
resource "google_service_account" "push" {
  account_id   = "gauntlet-push"
  display_name = "Gauntlet: Pub/Sub calling the receiver"
  depends_on   = [google_project_service.needed]
}
