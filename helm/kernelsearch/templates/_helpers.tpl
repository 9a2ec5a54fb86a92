{{/* Name of everything that belongs to the operator. */}}
{{- define "kernelsearch.name" -}}
{{- if contains "kernelsearch" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-kernelsearch" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "kernelsearch.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "kernelsearch.name" .) }}
{{- end }}

{{- define "kernelsearch.selector" -}}
app.kubernetes.io/name: kernelsearch
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kernelsearch.labels" -}}
{{ include "kernelsearch.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* The searchNamespaces with every evaluationNamespace filled in, as JSON: what the operator reads. */}}
{{- define "kernelsearch.searchNamespaces" -}}
{{- $resolved := list }}
{{- range .Values.searchNamespaces }}
{{- $resolved = append $resolved (dict "name" .name "evaluationNamespace" (.evaluationNamespace | default $.Values.evaluation.namespace)) }}
{{- end }}
{{- $names := list }}
{{- range $resolved }}
{{- if has .name $names }}{{ fail (printf "searchNamespaces lists %s twice; remove one of them" .name) }}{{ end }}
{{- $names = append $names .name }}
{{- end }}
{{- range $resolved }}
{{- if or (has .evaluationNamespace $names) (eq .evaluationNamespace $.Release.Namespace) }}
{{- fail (printf "evaluation namespace %s is a search namespace or the release's own; candidates are hostile code, so give them a namespace of their own" .evaluationNamespace) }}
{{- end }}
{{- end }}
{{- toJson $resolved }}
{{- end }}

{{/* The evaluation namespaces, each once, as JSON. */}}
{{- define "kernelsearch.evaluationNamespaces" -}}
{{- $names := list }}
{{- range include "kernelsearch.searchNamespaces" . | fromJsonArray }}
{{- $names = append $names .evaluationNamespace }}
{{- end }}
{{- $names | uniq | sortAlpha | toJson }}
{{- end }}

{{/* What controller/settings.py reads. */}}
{{- define "kernelsearch.environment" -}}
- name: KERNELSEARCH_DATABASE
  value: /var/lib/kernelsearch/journal.db
- name: KERNELSEARCH_NAMESPACE
  value: {{ .Release.Namespace | quote }}
- name: KERNELSEARCH_SEARCH_NAMESPACES
  value: {{ include "kernelsearch.searchNamespaces" . | quote }}
- name: KERNELSEARCH_ALLOWED_ORIGINS
  value: {{ toJson .Values.llm.allowedOrigins | quote }}
- name: KERNELSEARCH_EVALUATION_SERVICE_ACCOUNT
  value: kernelsearch-evaluation
- name: KERNELSEARCH_LOG_LEVEL
  value: {{ .Values.logLevel }}
- name: KERNELSEARCH_LIVENESS_PORT
  value: "8080"
- name: KERNELSEARCH_METRICS_PORT
  value: "9090"
{{- end }}

{{- define "kernelsearch.operatorImage" -}}
{{ required "set images.operator to the operator image that you pushed, e.g. --set images.operator=registry.example.com/kernelsearch-operator:0.1.0" .Values.images.operator }}
{{- end }}

{{- define "kernelsearch.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Of every pod of this chart: the restricted Pod Security Standard, and a read-only root. */}}
{{- define "kernelsearch.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "kernelsearch.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
